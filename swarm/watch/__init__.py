"""`swarm watch`: a swarm, live, in a terminal."""
