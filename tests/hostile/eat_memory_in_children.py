"""The same, spread over children so that none is large."""

import os
import time

for _ in range(15):
    if os.fork() == 0:
        taken = bytearray(b"x") * (60 << 20)
        time.sleep(20)
        os._exit(0)
time.sleep(20)
