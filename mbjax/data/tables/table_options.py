"""The options of `config.data` that tables share, and what a user may say of single columns."""

import ast
import difflib
from collections.abc import Collection, Sequence
from typing import Any

from mbjax.data.sources import DIR_OPTION, PATH_OPTION
from mbjax.data.tables.csv_dialect import CSV_OPTION
from mbjax.options import TEXT, TEXTS, Kind, Option, listed, shown, unset_or
from mbjax.types import UserError

TREATMENTS = ("number", "category", "date", "drop")
_WANTED = (
    "what columns are, such as \"{'zip': 'category', 'day': 'date:%d/%m/%Y'}\" (number, category, date, date:FORMAT or "
    "drop), is needed"
)


def _mapping(value: Any) -> dict[str, str]:
    """Raises a ValueError or SyntaxError of what is none."""
    if isinstance(value, str):
        value = ast.literal_eval(value) if value else {}
    if not hasattr(value, "items"):
        raise ValueError(value)
    return dict(value.items())


def _are_treatments(value: Any) -> bool:
    try:
        given = _mapping(value)
    except (ValueError, SyntaxError):
        return False
    return all(
        isinstance(name, str) and isinstance(what, str) and (what in TREATMENTS or what.startswith("date:%"))
        for name, what in given.items()
    )


TARGET_OPTION = Option("target", "", TEXT, "the column of labels")
DROP_OPTION = Option("drop", (), TEXTS, "columns to leave out")
COLUMNS_OPTION = Option(
    "columns", "", unset_or(Kind(_WANTED, _are_treatments, str), "none", unset=""),
    "what columns are, where that is not found: number, category, date, date:FORMAT or drop, by their names",
)  # fmt: skip
SHARED = (PATH_OPTION, TARGET_OPTION, DIR_OPTION, DROP_OPTION, CSV_OPTION, COLUMNS_OPTION)
"""Of `config.data`, for every task that reads files of tables of one's own."""


def read_treatments(value: Any, drop: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """`config.data.columns` as a mapping, without the columns to leave out, and these with those of `drop`.

    Raises:
      UserError: what is no such mapping.
    """
    if not _are_treatments(value):
        raise UserError(f"config.data.columns={shown(value)}: {_WANTED}")
    given = _mapping(value)
    dropped = [*drop, *(name for name, what in given.items() if what == "drop" and name not in drop)]
    return {name: what for name, what in given.items() if what != "drop"}, dropped


def check_named(columns: Sequence[str], names: Collection[str], key: str, source: str) -> None:
    """Raises a UserError if a column that `config.data.KEY` names is not there."""
    if unknown := [name for name in names if name not in columns]:
        raise UserError(f"config.data.{key}: no column {unknown[0]!r} in {source}; it has {listed(columns)}")


def check_columns(columns: Sequence[str], *, target: str, drop: Sequence[str], source: str) -> None:
    """Raises a UserError if the target or a column to leave out is not there."""
    for key, name in (("target", target), *(("drop", name) for name in drop)):
        if name not in columns:
            near = difflib.get_close_matches(name, columns)
            hint = f"did you mean {listed(near)}?" if near else f"it has {listed(columns)}"
            hint += "; is that one line of names? set --config.data.csv.sep" if len(columns) == 1 else ""
            raise UserError(f"config.data.{key}={name!r}: no such column in {source}; {hint}")
