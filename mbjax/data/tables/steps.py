"""Steps from columns as they are written to columns of numbers or categories: what they share."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mbjax.data.tables.dates import Dates
from mbjax.data.tables.spelling import Flags, Numbers, Words

Step = Numbers | Flags | Words | Dates
"""From a column as it is written to columns of numbers or categories."""
_KINDS: dict[str, type[Numbers] | type[Flags] | type[Words] | type[Dates]] = {
    "numbers": Numbers, "flags": Flags, "words": Words, "dates": Dates,
}  # fmt: skip


def step_from_dict(about: Mapping[str, Any]) -> Step:
    """What `dataclasses.asdict` gave of a step, perhaps by way of JSON."""
    return _KINDS[about["kind"]](**about)


def apply(steps: Sequence[Step], frame: pd.DataFrame, source: str, start: int = 0) -> pd.DataFrame:
    """A table after the steps, each column's own in its place.

    Args:
      steps: of its columns; those of columns that it lacks are left out.
      frame: raw columns.
      source: its name, for messages.
      start: how many rows came before, for messages.

    Raises:
      UserError: a value that a step cannot read.
    """
    own = {step.name: step for step in steps}
    if not own.keys() & set(frame.columns):
        return frame
    parts: dict[str, Any] = {}
    for name in frame.columns:
        column = frame.loc[:, name]
        step = own.get(name)
        parts |= {name: column} if step is None else step.convert(column, f"{source}: column {name!r}", start)
    return pd.DataFrame(parts, index=frame.index)
