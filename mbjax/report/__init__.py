"""Tables and figures of finished runs."""

from mbjax.report.analysis import match_table, with_priors
from mbjax.report.plots import plot_groups, plot_run
from mbjax.report.tables import compare_runs, describe, load_runs, paired_difference

__all__ = [
    "compare_runs",
    "describe",
    "load_runs",
    "match_table",
    "paired_difference",
    "plot_groups",
    "plot_run",
    "with_priors",
]
