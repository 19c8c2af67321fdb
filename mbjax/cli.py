"""What the commands share: a user's mistake is one line and exit status 2."""

import logging
import os
import sys
from collections.abc import Callable

from absl import app

from mbjax import train
from mbjax.types import UserError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs a command."""
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        sys.exit(_say(f"error: {error}", 2))
    except train.Interrupted as interruption:
        sys.exit(_say(str(interruption), interruption.exit_status))
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(_say("stopped; the same command goes on from what is done", 130))  # and waits for no other process


def show_log() -> None:
    """Shows mbjax's own lines alone: a checkpoint makes its library write dozens."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mbjax").setLevel(logging.INFO)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; an unknown configuration key is the user's mistake, not a crash."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        raise UserError(f"unknown config key {error}: mbjax/config.py lists the keys") from None


def _say(line: str, status: int) -> int:
    print(f"mbjax: {line}", file=sys.stderr)
    return status
