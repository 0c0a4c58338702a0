"""Readers of the leaderboard: they show it and change nothing."""
