"""The page of each finished run, or a table of groups of them.

    mbjax report RUN RUN …                            makes report.html in each run's folder again
    mbjax report NAME=FOLDER,FOLDER,… NAME=FOLDER,…   prints a Markdown table of groups over their seeds

A comparison's page is made by the command that made the comparison: what is done is not done again.
"""

import argparse
import pathlib
from collections.abc import Sequence

from mbjax import console, report
from mbjax.report import paper
from mbjax.types import UserError


def _groups(arguments: list[str]) -> dict[str, list[str]]:
    pairs = [argument.partition("=") for argument in arguments]
    if bad := [name for name, _, folders in pairs if not folders]:
        raise UserError(f"{bad[0]!r}: write NAME=FOLDER,FOLDER,… for a table, or run folders alone for their pages")
    return {name: folders.split(",") for name, _, folders in pairs}


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(
        prog="mbjax report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN|NAME=FOLDER,…", help="a run's folder, or a group's that differ in their seed")
    add("--score", help="the score of the paired differences")
    add("--reference", help="the group that the differences are taken from; the first by default")
    add("--priors", action="store_true", help="adds a row of each group with the training priors divided out")
    add(
        "--paper",
        choices=[*sorted(paper.ACCURACY), "celeba"],
        help="adds the paper's accuracy of groups named as its rows are",
    )
    add("--figures", type=pathlib.Path, metavar="DIR", help="draws the paper's figures 1 and 2 of these groups")
    add("--match", metavar="NAME:NAME", help="study: the first's majority accuracy set to the second's, on test data")
    return parser


def _report(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name != "runs"}
    if any("=" in run and not pathlib.Path(run).is_dir() for run in options.runs):
        print(report.compare(_groups(options.runs), **given))
        return
    if used := [name for name, value in given.items() if value]:
        raise UserError(f"--{used[0]} is of tables: write NAME=FOLDER,FOLDER,…")
    for run in options.runs:
        print(report.write_page(pathlib.Path(run)))


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(_report, arguments)


if __name__ == "__main__":
    main()
