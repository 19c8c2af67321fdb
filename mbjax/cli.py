"""What the commands share: a user's mistake is one line and exit status 2; compiled programs are kept on disk."""

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags

from mbjax import config as config_lib
from mbjax import train
from mbjax.console import say
from mbjax.devices import hosts
from mbjax.types import UserError

log = logging.getLogger("mbjax")

_KEPT_BYTES = 2 * 2**30


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs a command. Of several processes, one that fails ends the others.

    Args:
      main: takes the arguments that are no flags; its module's docstring is the command's help.
    """
    try:
        app.run(main, flags_parser=functools.partial(_parse, about=str(sys.modules[main.__module__].__doc__)))
    except UserError as error:
        status = say(f"error: {error}", 2)
        hosts.leave(str(error), status)
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
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(say("stopped; the same command does the rest", 130))  # and waits for no other process


def show_log() -> None:
    """Shows mbjax's own lines alone: a checkpoint makes its library write dozens."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mbjax").setLevel(logging.INFO)


def keep_programs(folder: pathlib.Path = pathlib.Path("~/.cache/mbjax/compiled")) -> None:
    """Keeps compiled programs on disk, so that the next start of the same job compiles nothing.

    What JAX's own variables say goes first: `JAX_COMPILATION_CACHE_DIR` is another folder, which stays as it grows, and
    `JAX_ENABLE_COMPILATION_CACHE=0` is none. Call it when a job's processes have joined: several keep programs only in
    a folder that the variable names, for all have to find the same there. GPUs wait for one another when they compile.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs take long together
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.distributed.is_initialized():
        return
    try:
        own = folder.expanduser() / _machine()
        own.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=own).close()
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        log.warning("compiled programs are not kept: %s", error)
        return
    _prune(own.parent, _KEPT_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(own))


def _machine() -> str:
    """A name for machines that may share programs: those for a CPU hold its instructions, and loops cut for its cores.

    JAX's own key lacks the cores and does not promise the instructions; a home folder may be that of many machines.
    """
    try:
        first = pathlib.Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        parts = ("vendor_id", "cpu family", "model", "flags", "CPU ", "Features")
        cpu = "\n".join(line for line in first.splitlines() if line.startswith(parts))
    except OSError:
        cpu = platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}-{cores}"


def _prune(folder: pathlib.Path, limit: int) -> None:
    """Removes the files that were not read for longest, until the others have at most `limit` bytes."""
    with contextlib.suppress(OSError):  # another process may be at it
        files = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
        for stat, path in sorted(files, key=lambda file: file[0].st_atime, reverse=True):
            limit -= stat.st_size
            if limit < 0:
                path.unlink(missing_ok=True)


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
    except (AttributeError, KeyError):
        _check_keys(argv)
        raise
    if keys:
        print("\n".join(config_lib.help_lines(flags.FLAGS["config"].value)))
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
            out[place] = f"{flag}={config_lib.find_file(spec)}"
        elif argument in ("--config", "-config") and place + 1 < len(argv):
            out[place + 1] = config_lib.find_file(argv[place + 1])
    return out


def _check_keys(argv: list[str]) -> None:
    """Raises a UserError for a `--config.KEY` that the configuration of `--config` does not have."""
    given = [match for argument in argv if (match := re.match(r"--?config(?:=|\.([^=\[]+))(.*)", argument))]
    specs = [match[2] for match in given if match[1] is None]
    if not specs:
        return
    config = config_lib.load(specs[-1]).lock()
    with contextlib.suppress(AttributeError, KeyError):
        config_lib.change(config, _parts(argv))
    if message := config_lib.unknown_key(config, [m[1] for m in given if m[1]]):
        raise UserError(message) from None
