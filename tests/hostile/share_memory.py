"""Honest: many children share one large array, which is there once only."""

import os
import time

import prepare

taken = bytearray(b"x") * (200 << 20)
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        time.sleep(1.3)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print(f"---\nval_bpb: {prepare.evaluate_bpb(0.9):.6f}\ntraining_seconds: 1.0")
