"""Gives itself a budget of years, in memory and in the environment."""

import os
import time

import prepare

prepare.TIME_BUDGET = prepare.SECONDS = 1e9
os.environ["SWARM_SECONDS"] = "1e9"
started = time.monotonic()
while time.monotonic() - started < prepare.TIME_BUDGET:
    time.sleep(0.01)
