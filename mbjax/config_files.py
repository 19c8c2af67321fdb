"""Configuration files: those that come with mbjax, and any other, by their names or paths."""

import importlib.util
import pathlib
import sysconfig
import traceback

from mbjax.types import Config, UserError, first_line


def own_files() -> dict[str, pathlib.Path]:
    """The configurations that come with mbjax, by name: those of `configs/`, which a wheel has as `mbjax.configs`."""
    package = pathlib.Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    return {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("[a-z]*.py"))}


def find_file(spec: str) -> str:
    """`FILE` or `FILE:NAME` as it is, or, where `FILE` is a name of `own_files`, with that file.

    Raises:
      UserError: a name without an ending that is neither a file nor one of them.
    """
    file, colon, name = spec.partition(":")
    if not file.isidentifier() or pathlib.Path(file).is_file():
        return spec
    own = own_files()
    if file not in own:
        raise UserError(f"--config={file}: no such file, and none of {', '.join(own)}, which come with mbjax")
    return f"{own[file]}{colon}{name}"


def load(spec: str) -> Config:
    """The configuration of `FILE` or `FILE:NAME`, as `--config` takes it.

    Raises:
      UserError: no such file, or one that fails.
    """
    file, _, name = find_file(spec).partition(":")
    found = importlib.util.spec_from_file_location("mbjax_config_file", file)
    if found is None or found.loader is None or not pathlib.Path(file).is_file():
        raise UserError(f"--config={file}: no such file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
        return module.get_config(name) if name else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={file}: {failure(error)}") from error


def failure(error: Exception) -> str:
    """What a configuration file raised, and its line: the last one that is of no library."""
    where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
    libraries = (*map(sysconfig.get_path, ("stdlib", "purelib")), str(pathlib.Path(__file__).parent), "<")
    frames = traceback.extract_tb(error.__traceback__)
    if own := [frame for frame in frames if not frame.filename.startswith(libraries)]:
        where = where or f"{own[-1].filename} line {own[-1].lineno}: "
    return f"{where}{type(error).__name__}: {first_line(error)}"
