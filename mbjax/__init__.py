"""MetaBalance in JAX and Flax: training neural networks on class-imbalanced data.

The public names are loaded when they are first asked for, so `import mbjax` takes no time, and who wants the meta-step
alone loads neither pandas nor scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mbjax.compare import run_comparison
    from mbjax.estimator import ImbalancedClassifier, MetaBalanceClassifier
    from mbjax.meta import make_meta_step
    from mbjax.predict import Predictor, load
    from mbjax.state import TrainState
    from mbjax.train import train_and_evaluate
    from mbjax.types import Dataset, Split, UserError

__all__ = [
    "Dataset",
    "ImbalancedClassifier",
    "MetaBalanceClassifier",
    "Predictor",
    "Split",
    "TrainState",
    "UserError",
    "load",
    "make_meta_step",
    "run_comparison",
    "train_and_evaluate",
]

_HOMES = {
    "Dataset": "mbjax.types",
    "ImbalancedClassifier": "mbjax.estimator",
    "MetaBalanceClassifier": "mbjax.estimator",
    "Predictor": "mbjax.predict",
    "Split": "mbjax.types",
    "TrainState": "mbjax.state",
    "UserError": "mbjax.types",
    "load": "mbjax.predict",
    "make_meta_step": "mbjax.meta",
    "run_comparison": "mbjax.compare",  # not `compare`: that is the package, and its command
    "train_and_evaluate": "mbjax.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mbjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
