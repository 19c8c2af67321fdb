"""What the commands share: how the flags are read, what is shown, and how each of them ends."""

import contextlib
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags

from mbjax import config as config_lib
from mbjax import config_files, console, train
from mbjax.console import say
from mbjax.devices import hosts
from mbjax.options import Section, shown
from mbjax.types import Config, UserError

log = logging.getLogger("mbjax")


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs a command. Of several processes, one that fails ends the others.

    Args:
      main: takes the arguments that are no flags; its module's docstring is the command's help.
    """
    console.heed_signals()
    try:
        app.run(main, flags_parser=functools.partial(_parse, about=str(sys.modules[main.__module__].__doc__)))
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        if isinstance(error, OSError) and jax.distributed.is_initialized():
            hosts.await_news()
        line = f"error: {error}" if isinstance(error, UserError) else console.describe_failure(error)
        status = say(line, 2)
        hosts.leave(line.removeprefix("error: "), status)
        sys.exit(status)
    except train.Interrupted as interruption:
        hosts.finish()
        sys.exit(say(str(interruption), interruption.exit_status))
    except Exception as error:
        if jax.distributed.is_initialized():
            hosts.await_news()
            traceback.print_exc()
            hosts.leave(f"{type(error).__name__}, see its log", 1)
        raise
    except SystemExit:
        hosts.finish()
        raise
    except KeyboardInterrupt as stop:
        sys.stdout.flush()
        line, status = console.describe_stop(stop, "; the same command does the rest")
        os._exit(say(line, status))  # and waits for no other process


def show_log() -> None:
    """Shows mbjax's own lines alone: a checkpoint makes its library write dozens."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mbjax").setLevel(logging.INFO)
    for library in ("absl", "asyncio", "orbax"):  # of a damaged checkpoint they log traces, and mbjax one line
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _parse(argv: list[str], *, about: str) -> list[str]:
    """Parses the flags, or prints the help that is asked for. What absl and ml_collections raise is the user's mistake.

    Raises:
      UserError: an unknown flag or configuration key, or a value of another type.
    """
    if {"-h", "--help"} & set(argv[1:]):
        print(about.strip() + "\n\n--help-config lists the keys of the configuration.")
        sys.exit(0)
    keys = "--help-config" in argv
    _bring_own_keys(argv)
    try:
        rest = flags.FLAGS(_with_files([argument for argument in argv if argument != "--help-config"]))
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from None
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, AttributeError | KeyError):
            _check_keys(argv)
        raise UserError(f"--config: {config_files.failure(error)}") from error
    if keys:
        print("\n".join(help_lines(flags.FLAGS["config"].value)))
        sys.exit(0)
    return rest


def _bring_own_keys(argv: Sequence[str]) -> None:
    """Lets a configuration that is read from its file have the keys of the parts that the command line names."""
    parser = flags.FLAGS["config"].parser
    parse = parser.parse

    def parse_and_bring(argument: str) -> Any:
        config = parse(argument)
        config_lib.change(config, _parts(argv))
        return config

    parser.parse = parse_and_bring


def _parts(argv: Sequence[str]) -> dict[str, str]:
    """The keys of the command line that name a part, with its name."""
    given = [match for text in argv if (match := re.match(r"--?config\.([^=\[]+)=(.*)", text))]
    return {match[1]: match[2] for match in given if config_lib.names_part(match[1])}


def _with_files(argv: Sequence[str]) -> list[str]:
    """The arguments, with the file of a configuration that comes with mbjax in place of its name alone."""
    out = list(argv)
    for place, argument in enumerate(argv):
        if argument.startswith(("--config=", "-config=")):
            flag, _, spec = argument.partition("=")
            out[place] = f"{flag}={config_files.find_file(spec)}"
        elif argument in ("--config", "-config") and place + 1 < len(argv):
            out[place + 1] = config_files.find_file(argv[place + 1])
    return out


def _check_keys(argv: list[str]) -> None:
    """Raises a UserError for a `--config.KEY` that the configuration of `--config` does not have."""
    given = [match for argument in argv if (match := re.match(r"--?config(?:=|\.([^=\[]+))(.*)", argument))]
    specs = [match[2] for match in given if match[1] is None]
    if not specs:
        return
    config = config_files.load(specs[-1]).lock()
    with contextlib.suppress(AttributeError, KeyError):
        config_lib.change(config, _parts(argv))
    if message := config_lib.unknown_key(config, [m[1] for m in given if m[1]]):
        raise UserError(message) from None


def help_lines(config: Config) -> list[str]:
    """Every key of a configuration with its value, its default and its help: one line for each, section by section."""
    values = config.to_dict()
    sections = config_lib.sections_of(values)
    of_run = {key: value for key, value in values.items() if key not in sections}
    tables = {f"config: {config_lib.RUN.help}": _help_rows("", config_lib.RUN, of_run)}
    for name, section in sections.items():
        tables[f"{name}: {section.help}"] = _help_rows(f"{name}.", section, values[name])
    head = ("key", "value", "default", "help")
    every = [head, *(row for table in tables.values() for row in table)]
    widths = [max(len(row[column]) for row in every) for column in range(3)]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3]]).rstrip()

    return [line(head)] + [text for title, table in tables.items() for text in ("", title, *map(line, table))]


def _help_rows(prefix: str, section: Section, values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    declared = {option.name: option for option in section.options}
    rows = []
    for key in [*(name for name in declared if name in values), *(name for name in values if name not in declared)]:
        option = declared.get(key)
        if isinstance(values[key], dict) and option and option.parts:
            rows += _help_rows(f"{prefix}{key}.", Section(option.help, option.parts), values[key])
            continue
        default, help = (shown(option.default, 30), option.help) if option else ("", "")
        choices = f": {', '.join(option.kind.names)}" if option and option.kind.names else ""
        rows.append((prefix + key, shown(values[key], 30), default, help + choices))
    return rows
