"""Autonomous LLM research by a swarm of coding agents: one agent, worktree and pane per GPU."""

__version__ = "0.1.0"
