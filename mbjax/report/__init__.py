"""Tables and figures of finished runs."""

from mbjax.report.plots import plot_run
from mbjax.report.tables import compare_runs, describe, load_runs, paired_difference

__all__ = ["compare_runs", "describe", "load_runs", "paired_difference", "plot_run"]
