"""A model for elsewhere: its preprocessing, network and calibration in one file, ONNX or StableHLO."""

from mbjax.export.onnx_file import to_onnx
from mbjax.export.stablehlo import to_stablehlo

__all__ = ["to_onnx", "to_stablehlo"]
