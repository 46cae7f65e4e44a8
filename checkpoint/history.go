package checkpoint

// Two values that tell the owner which ids of a stream's events it may honour. Package cursor has
// what is in them.
var (
	epochsKey    = []byte("\x00epochs")
	forgottenKey = []byte("\x00forgotten")
)

// SetEpochs keeps the list of the directory's starts. It is durable when it returns. The owner
// calls it once in each life, after Start.
func (s *Store) SetEpochs(list []byte) error { return s.set(epochsKey, list) }

// Epochs returns what SetEpochs kept last; nil: nothing. Any goroutine.
func (s *Store) Epochs() ([]byte, error) { return s.get(epochsKey) }

// SetForgotten keeps what the owner has forgotten. It is durable when it returns. The goroutine
// that writes the checkpoint calls it, before Commit of an LSN through which the list is whole.
func (s *Store) SetForgotten(list []byte) error { return s.set(forgottenKey, list) }

// Forgotten returns what SetForgotten kept last; nil: nothing. Any goroutine.
func (s *Store) Forgotten() ([]byte, error) { return s.get(forgottenKey) }

// copyHistory makes both what they are in another store.
func (s *Store) copyHistory(from *Store) error {
	for _, key := range [][]byte{epochsKey, forgottenKey} {
		value, err := from.get(key)
		if err == nil && value != nil {
			err = s.set(key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
