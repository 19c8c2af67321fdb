"""`mbjax data fetch fraud [--dir=DIR]` downloads a data set's file into the data folder."""

from collections.abc import Sequence

from mbjax import console
from mbjax.data import sources


def _fetch(arguments: Sequence[str]) -> None:
    parser = console.Parser(prog="mbjax data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    fetch = commands.add_parser("fetch", help="download a data set's file and check it")
    fetch.add_argument("task", choices=sorted(sources.REMOTES))
    fetch.add_argument("--dir", default="", help="else $MBJAX_DATA_DIR, else ~/.cache/mbjax")
    options = parser.parse_args(arguments)
    print(sources.fetch(options.task, options.dir))


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(_fetch, arguments)


if __name__ == "__main__":
    main()
