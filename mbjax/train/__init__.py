"""Training: experiments, their updates, runs and their folders, and populations of runs."""

from mbjax.train.experiment import Experiment, assemble, build, make_method
from mbjax.train.finish import make_predictor, sampled_priors
from mbjax.train.fit import Fitted, fit
from mbjax.train.loop import Interrupted, boundaries, stop_signals, train_and_evaluate
from mbjax.train.updates import last_state, make_updates

__all__ = [
    "Experiment",
    "Fitted",
    "Interrupted",
    "assemble",
    "boundaries",
    "build",
    "fit",
    "last_state",
    "make_method",
    "make_predictor",
    "make_updates",
    "sampled_priors",
    "stop_signals",
    "train_and_evaluate",
]
