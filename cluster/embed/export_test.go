package embed

// ID is what raft groups call the server.
func (s *Server) ID() string { return s.server.Node() }
