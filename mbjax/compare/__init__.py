"""Every method on one task, on the same splits."""

from mbjax.compare.driver import Task, compare

__all__ = ["Task", "compare"]
