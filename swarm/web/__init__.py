"""The live page of a swarm in a browser: read-only, for people."""
