package broadcast

// laps are the users whose streams are to be visited. Single owner: its worker.
type laps struct {
	woken  []*user // whose lap has not begun, first come first served
	crowds []*user // in the middle of a lap, in turn
}

// wake queues a user for a lap, unless it waits for one or is in one.
func (l *laps) wake(u *user) {
	if !u.queued {
		u.queued = true
		l.woken = append(l.woken, u)
	}
}

// putBack queues a user whose lap is not over.
func (l *laps) putBack(u *user) {
	u.queued = true
	l.crowds = append(l.crowds, u)
}

func (l *laps) waiting() bool { return len(l.woken) > 0 || len(l.crowds) > 0 }

func (l *laps) nextWoken() *user { return pop(&l.woken) }

func (l *laps) nextCrowd() *user { return pop(&l.crowds) }

func pop(queue *[]*user) *user {
	u := (*queue)[0]
	(*queue)[0] = nil
	if *queue = (*queue)[1:]; len(*queue) == 0 {
		*queue = nil // the array may be that of a rare peak
	}
	u.queued = false
	return u
}
