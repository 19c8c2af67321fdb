"""The model that predicts: what a finished run leaves, and all that new rows need."""

from mbjax.predict.files import load
from mbjax.predict.predictor import Predictor

__all__ = ["Predictor", "load"]
