package broadcast

// Source names one order of LSNs: one log. A process with one log has one source, 0.
type Source uint16
