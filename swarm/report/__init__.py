"""`swarm report`: the story of a swarm, as a researcher would publish it."""
