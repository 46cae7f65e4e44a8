package cluster

// rouser wakes a loop that sleeps. It has room for one: a loop that is awake looks at all there is.
// Any goroutine may rouse.
type rouser chan struct{}

func newRouser() rouser { return make(rouser, 1) }

// rouse has the loop look at once. It never blocks.
func (r rouser) rouse() {
	select {
	case r <- struct{}{}:
	default:
	}
}
