"""`swarm web`: a swarm, live, in a browser; read-only."""
