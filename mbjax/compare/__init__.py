"""Every method on one task, on the same splits."""

from mbjax.compare.driver import compare, run_comparison
from mbjax.compare.plan import Task

__all__ = ["Task", "compare", "run_comparison"]
