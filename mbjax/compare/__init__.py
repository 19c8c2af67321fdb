"""Every method on one task, on the same splits."""

from mbjax.compare.driver import compare
from mbjax.compare.plan import Task

__all__ = ["Task", "compare"]
