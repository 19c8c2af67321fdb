"""Training: experiments, their updates, runs and their folders, and populations of runs."""

from mbjax.train.experiment import Experiment, build, make_method
from mbjax.train.loop import Interrupted, boundaries, stop_signals, train_and_evaluate, train_rows
from mbjax.train.updates import feed, make_advance, on_device

__all__ = [
    "Experiment",
    "Interrupted",
    "boundaries",
    "build",
    "feed",
    "make_advance",
    "make_method",
    "on_device",
    "stop_signals",
    "train_and_evaluate",
    "train_rows",
]
