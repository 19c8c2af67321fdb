"""How every command ends: 0 when it is done, 2 with one line for a user's mistake, 130 when it is interrupted."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mbjax.types import UserError


def say(line: str, status: int) -> int:
    """Prints a line about how the command ended and returns its exit status."""
    print(f"mbjax: {line}", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like those of every command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options")


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> None:
    """Runs a command that has no configuration, on `sys.argv` if no arguments are given; leaves if it fails."""
    try:
        main(sys.argv[1:] if arguments is None else arguments)
        return
    except UserError as error:
        line, status = f"error: {error}", 2
    except KeyboardInterrupt:
        line, status = "stopped", 130
    sys.exit(say(line, status))  # out here, where the error and what it holds (sockets, say) are gone
