"""Checkpoints of a training run: written whole or not at all, the newest two kept."""

import os
import pathlib
import pickle

import torch

from . import Failure

KEPT = 2


def write(folder, step, state):
    """Writes `checkpoint-<step>.pt` and removes all but the newest ones."""
    path = folder / f"checkpoint-{step:09d}.pt"
    write_atomically(path, lambda file: torch.save(state, file))
    for old in steps(folder)[:-KEPT]:
        old.unlink()
    return path


def write_atomically(path, fill):
    """Writes a file through a neighbour that takes its name when it is complete and on disk."""
    path = pathlib.Path(path)
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def steps(folder):
    """Checkpoints in a folder, oldest first."""
    return sorted(pathlib.Path(folder).glob("checkpoint-*.pt"))


def newest(folder):
    """State of the newest checkpoint that can be read."""
    found = steps(folder)
    if not found:
        raise Failure(f"{folder}: holds no checkpoint to resume from; leave out --resume to begin anew")
    for path in reversed(found):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):
            continue
    raise Failure(f"{folder}: none of its checkpoints can be read; remove them and begin anew")
