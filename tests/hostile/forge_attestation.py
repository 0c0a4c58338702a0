"""Writes the attestation itself. Inside its own process nothing can tell it from the harness."""

import json
import os
from pathlib import Path

forged = {"val_bpb": 0.1, "tokens": 1, "bytes": 1, "causal": True}
Path(os.environ["SWARM_ATTEST"]).write_text(json.dumps(forged))
print("---\nval_bpb: 0.100000\ntraining_seconds: 1.0")
