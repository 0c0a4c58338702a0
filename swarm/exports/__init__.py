"""`swarm export`: the leaderboard in the formats of other tools."""
