"""The rows of comparisons: a title and a flat dict of changed keys each. `mbjax.compare` runs them."""

from mbjax.rows.later import CHOSEN, SCALING, SUITE, TABULAR
from mbjax.rows.paper import GRID, ROWS, Family, Row

__all__ = ["CHOSEN", "GRID", "ROWS", "SCALING", "SUITE", "TABULAR", "Family", "Row"]
