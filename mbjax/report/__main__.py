"""`python -m mbjax.report NAME=FOLDER,FOLDER,… …`: a Markdown table of groups of finished runs, over their seeds."""

import argparse
import sys

from mbjax.report import tables
from mbjax.types import UserError


def _groups(arguments: list[str]) -> dict[str, list[str]]:
    pairs = [argument.partition("=") for argument in arguments]
    if bad := [name for name, _, folders in pairs if not folders]:
        raise UserError(f"{bad[0]!r}: write NAME=FOLDER,FOLDER,…")
    return {name: folders.split(",") for name, _, folders in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mbjax.report", description=__doc__)
    parser.add_argument("groups", nargs="+", metavar="NAME=FOLDER,…", help="run folders that differ in their seed")
    parser.add_argument("--score", help="the score of the paired differences")
    parser.add_argument("--reference", help="the group that the differences are taken from; the first by default")
    arguments = parser.parse_args()
    try:
        runs = tables.load_runs(_groups(arguments.groups))
        print(tables.compare_runs(runs, score=arguments.score, reference=arguments.reference))
    except UserError as error:
        print(f"mbjax: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
