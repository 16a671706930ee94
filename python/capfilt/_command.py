"""The command `capfilt` of the package."""

import os
import signal
import sys

from . import _lib, _runtime


def main() -> None:
    """Runs the command and ends the process with its status."""
    _runtime.find()
    # The command has its own handling of Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Rounds run the command once more for each table.
    _lib.set_program([sys.executable, "-m", "capfilt"])
    status = _lib.main(["capfilt", *sys.argv[1:]])
    sys.stdout.flush()
    os._exit(status)
