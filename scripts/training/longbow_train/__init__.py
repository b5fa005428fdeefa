"""Trains and exports the models that Longbow serves."""

__all__ = ["Failure"]


class Failure(Exception):
    """Something the caller can mend: the message names the file or option, and the fix."""
