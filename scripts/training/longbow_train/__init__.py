"""Trains and exports the models that Longbow serves."""

import sys

__all__ = ["Failure", "run"]


class Failure(Exception):
    """Something the caller can mend: the message names the file or option, and the fix."""


def run(command):
    """Runs a command on the arguments of the process and ends with its exit code; a `Failure` is told and ends with 1."""
    try:
        sys.exit(command(sys.argv[1:]))
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
