"""How every command ends: 0 when it is done, 2 with one line for a user's mistake, 130 when it is interrupted."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mbjax.types import UserError


def say(line: str, status: int) -> int:
    """Prints a line about how the command ended, without the middle of a very long one; returns its exit status."""
    line = " ".join(line.split())
    line = line if len(line) <= 2000 else f"{line[:1500]} … {line[-450:]}"
    print(f"mbjax: {line.encode(errors='backslashreplace').decode()}", file=sys.stderr)
    return status


class Stopped(KeyboardInterrupt):
    """A signal ends the process. Like Ctrl-C it is no `Exception`: nothing takes it for a damaged file."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum


def _stop(signum: int, frame: Any) -> NoReturn:
    raise Stopped(signum)


def heed_signals() -> None:
    """Lets SIGTERM and SIGHUP raise `Stopped`, so that a command ends with a line; ones that are ignored stay so."""
    with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us there handles signals
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) == signal.SIG_DFL:
                signal.signal(signum, _stop)


def describe_stop(stop: KeyboardInterrupt, more: str = "") -> tuple[str, int]:
    """The line about Ctrl-C or a signal, and the exit status."""
    name = f" by {stop}" if isinstance(stop, Stopped) else ""
    return f"stopped{name}{more}", getattr(stop, "exit_status", 130)


def describe_failure(error: OSError) -> str:
    """One line on what the system refused: a full disk, a folder that cannot be written, too many open files."""
    place = f"{os.fsdecode(error.filename)[:300]}: " if isinstance(error.filename, str | bytes) else ""
    return f"error: {place}{error.strerror}; what was written before is whole, and the same command does the rest"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like those of every command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options")


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> None:
    """Runs a command that has no configuration, on `sys.argv` if no arguments are given; leaves if it fails."""
    heed_signals()
    try:
        main(sys.argv[1:] if arguments is None else arguments)
        return
    except UserError as error:
        line, status = f"error: {error}", 2
    except OSError as error:
        if error.errno is None:
            raise
        line, status = describe_failure(error), 2
    except KeyboardInterrupt as stop:
        line, status = describe_stop(stop)
    sys.exit(say(line, status))  # out here, where the error and what it holds (sockets, say) are gone
