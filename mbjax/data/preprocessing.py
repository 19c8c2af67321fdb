"""What makes a network's inputs of raw ones, and goes with its weights: one kind for tables, one for arrays."""

from collections.abc import Mapping
from typing import Any

from mbjax.data.arrays import Arrays
from mbjax.data.tables.columns import TableColumns
from mbjax.types import Dataset

Preprocessing = TableColumns | Arrays
_KINDS: dict[str, type[TableColumns] | type[Arrays]] = {"table": TableColumns, "array": Arrays}


def of(dataset: Dataset) -> Preprocessing:
    """A data set's own, or one that takes examples like its own as they are."""
    return Arrays.like(dataset.train.x) if dataset.preprocessing is None else dataset.preprocessing


def from_dict(about: Mapping[str, Any]) -> Preprocessing:
    """What `to_dict` of either kind gave, perhaps by way of JSON."""
    return _KINDS[about["kind"]].from_dict(about)
