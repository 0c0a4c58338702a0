"""Takes memory until it is stopped, at most 1.5 GB."""

import time

taken = []
for _ in range(30):
    taken.append(bytearray(b"x") * (50 << 20))
    time.sleep(0.1)
