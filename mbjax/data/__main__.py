"""`python -m mbjax.data fetch fraud [--dir=DIR]` downloads a data set's file into the data folder."""

import argparse
import sys
from collections.abc import Sequence

from mbjax.data import sources
from mbjax.types import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m mbjax.data", description=__doc__)
    commands = parser.add_subparsers(required=True)
    fetch = commands.add_parser("fetch", help="download a data set's file and check it")
    fetch.add_argument("task", choices=sorted(sources.REMOTES))
    fetch.add_argument("--dir", default="", help="else $MBJAX_DATA_DIR, else ~/.cache/mbjax")
    args = parser.parse_args(argv)
    try:
        print(sources.fetch(args.task, args.dir))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
