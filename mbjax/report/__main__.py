"""`python -m mbjax.report RUN_FOLDER …`: a Markdown table of finished runs, grouped over their seeds."""

import argparse
import sys

from mbjax.report import tables
from mbjax.types import UserError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mbjax.report", description=__doc__)
    parser.add_argument("folders", nargs="+", help="run folders, each with a result.json")
    parser.add_argument("--score", help="the score of the paired differences")
    parser.add_argument("--reference", help="the group that the differences are taken from; the first by default")
    arguments = parser.parse_args()
    try:
        runs = tables.load_runs(arguments.folders)
        print(tables.compare_runs(runs, score=arguments.score, reference=arguments.reference))
    except UserError as error:
        print(f"mbjax: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
