"""What every peer tells its test: one JSON object per line on standard output."""

import json
import sys


def tell(event, **fields):
    """Writes one event at once; `listening` with its port is a server's first.

    In one piece, line end and all: threads tell at the same time.
    """
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def end_with_parent():
    """Ends the process when standard input closes, which is when the test that started it is gone."""
    sys.stdin.buffer.read()
