"""What every peer tells its test: one JSON object per line on standard output."""

import json
import sys


def tell(event, **fields):
    """Writes one event at once; `listening` with its port is a server's first."""
    print(json.dumps({"event": event, **fields}), flush=True)


def end_with_parent():
    """Ends the process when standard input closes, which is when the test that started it is gone."""
    sys.stdin.buffer.read()
