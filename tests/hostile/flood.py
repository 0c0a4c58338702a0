"""Prints as fast as it can, for as long as it may."""

import os

while True:
    os.write(1, b"x" * 99 + b"\n")
