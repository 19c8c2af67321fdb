"""A comparison's time: what is done first, how long the rest may take, what still fits, and what of it is whole."""

import collections
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from mbjax.compare import plan

FIRST = (  # quick and strong rows: what says most soonest, if the comparison is stopped
    *("logistic_regression_balanced", "boosting", "naive", "over", "logistic_regression", "boosting_balanced"),
    *("under", "metabalance", "no_adaptation"),
)
FEW = 5  # seeds of these rows that are done before all others, where the time is limited
_FINISH = 0.04  # of the minutes, kept for the page
Unit = Sequence[plan.Run]


def units_of(runs: Sequence[plan.Run], *, limited: bool) -> list[list[plan.Run]]:
    """What a process does at a time, in the order in which it is begun.

    The rows of `FIRST` come first. Then come the largest units, so that no process ends long before the others; or,
    where the time is limited, the smallest, after the first few seeds and then the others of `FIRST`.

    Args:
      runs: all.
      limited: whether the comparison may end before they are done.
    """

    def rank(unit: Unit) -> int:
        return FIRST.index(unit[0].row) if unit[0].row in FIRST else len(FIRST)

    if not limited:
        return sorted(plan.units_of(runs), key=lambda unit: (rank(unit), -len(unit)))
    units = plan.units_of(runs, dict.fromkeys(FIRST, FEW))
    return sorted(units, key=lambda unit: (max(run.seed for run in unit), rank(unit), len(unit)))


class Pace:
    """How fast the work goes, measured on the units that are done.

    Args:
      minutes: from now, in which the comparison is to end; None for no limit.
      jobs: how many units are done at a time.
    """

    def __init__(self, minutes: float | None, jobs: int = 1):
        self.minutes, self._jobs = minutes, jobs
        self.end = math.inf if minutes is None else time.time() + 60 * (1 - _FINISH) * minutes
        self._spent: dict[tuple[str, ...], tuple[float, int]] = collections.defaultdict(lambda: (0.0, 0))

    def took(self, unit: Unit, seconds: float) -> None:
        """Takes note of what a unit took."""
        kind = _kind(unit)
        for known in (kind, kind[:1]):  # of this kind, and of all networks or references
            spent, runs = self._spent[known]
            self._spent[known] = spent + seconds, runs + len(unit)

    def expect(self, unit: Unit) -> float:
        """The seconds that a unit may take: as its kind did, or else its family; NaN where neither was measured."""
        kind = _kind(unit)
        spent, runs = next((self._spent[known] for known in (kind, kind[:1]) if known in self._spent), (math.nan, 1))
        return spent / runs * len(unit)

    def left(self, units: Iterable[Unit]) -> float:
        """The seconds in which these units may be done; NaN while some are of a family that was not measured."""
        return sum(map(self.expect, units)) / self._jobs

    def rest(self, units: Sequence[Unit]) -> str:
        """What is left to do, in words."""
        given = "" if self.minutes is None else f"; it ends in {in_words(max(0.0, self.end - time.time()))}"
        return f"the other {len(units)} units take {in_words(self.left(units))}{given}" if units else "all is done"

    def fits(self, unit: Unit) -> bool:
        """Whether a unit may end in time. One of which nothing is known is tried."""
        expected = self.expect(unit)
        return time.time() + (0.0 if math.isnan(expected) else expected) < self.end


def _kind(unit: Unit) -> tuple[str, ...]:
    first = unit[0]
    if first.estimator:
        return "reference", first.estimator
    return "network", str(first.config.method), str(first.config.updates)


def whole(
    runs: Iterable[plan.Run], done: Collection[str], seeds: Sequence[int]
) -> tuple[list[str], list[int], list[str]]:
    """What a table can show if the work was stopped: rows, and the first seeds, as many as they all have done.

    Of the tables that there can be it is the one with the largest rows³ × seeds: one of twice the seeds may lack a
    fifth of the rows.

    Args:
      runs: all.
      done: the keys of those that have ended, well or not.
      seeds: in the order in which they are done.

    Returns:
      The rows and seeds of the table, and the rows that it lacks.
    """
    missing: Mapping[str, set[int]] = collections.defaultdict(set)
    rows = dict.fromkeys(run.row for run in runs)
    for run in runs:
        if run.key not in done:
            missing[run.row].add(run.seed)
    ended = {row: next((count for count, seed in enumerate(seeds) if seed in missing[row]), len(seeds)) for row in rows}
    count = max(
        range(1, len(seeds) + 1), key=lambda count: (count * sum(n >= count for n in ended.values()) ** 2, count)
    )
    shown = [row for row in rows if ended[row] >= count]
    return shown, [*seeds[:count]], [row for row in rows if row not in shown]


def in_words(seconds: float) -> str:
    """A time that is not known to the second, or, being NaN, not at all."""
    if math.isnan(seconds):
        return "a time that is not known yet"
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
