"""Ignores every signal that can be ignored, and hangs."""

import signal
import time

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
print("still here", flush=True)
while True:
    time.sleep(1)
