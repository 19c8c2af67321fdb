"""`mbjax COMMAND …`, or `python -m mbjax COMMAND …`: one module for each command."""

import importlib
import sys
from collections.abc import Sequence

from mbjax import console
from mbjax.options import nearest
from mbjax.types import UserError

COMMANDS = {  # name: (the function, in its module, and one line of help)
    "train": ("mbjax.main:run", "trains and evaluates what a configuration describes"),
    "compare": ("mbjax.compare.__main__:run", "compares all methods on one task, on the same splits"),
    "predict": ("mbjax.predict.__main__:main", "scores new rows with a finished run's model"),
    "export": ("mbjax.export.__main__:main", "writes a finished run's model as ONNX or StableHLO"),
    "report": ("mbjax.report.__main__:main", "makes the pages of finished runs, or tables of them"),
    "data": ("mbjax.data.__main__:main", "downloads a data set"),
}
HELP = "usage: mbjax COMMAND …\n\n" + "".join(f"  {name:9} {help}\n" for name, (_, help) in COMMANDS.items())


def _choose(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        meant = " or ".join(nearest(name, list(COMMANDS)))
        raise UserError(f"{name!r} is no command; did you mean {meant}? mbjax --help lists the commands")
    sys.argv = [f"mbjax {name}", *rest]  # where the commands and ml_collections read their options
    module, _, function = COMMANDS[name][0].partition(":")
    getattr(importlib.import_module(module), function)()


def main() -> None:
    if "" not in sys.path:  # as of `python -m mbjax`: what MODULE:NAME names may lie in this folder
        sys.path.insert(0, "")
    console.run(_choose)


if __name__ == "__main__":
    main()
