"""Leaves a daemon behind (two forks, a session of its own) after a good score."""

import os
import time

import prepare

print(f"---\nval_bpb: {prepare.evaluate_bpb(0.9):.6f}\ntraining_seconds: 1.0", flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1)
        os.close(2)
        time.sleep(1000)
    os._exit(0)
time.sleep(0.1)
