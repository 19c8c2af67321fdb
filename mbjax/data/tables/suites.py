"""Suites, many tables under one name: `keel`, `imblearn` and `own`. Each is a task whose `data.table` says which."""

import collections
import dataclasses
import functools
import re
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mbjax.data.sources import DIR_OPTION, PATH_OPTION, data_dir, find_own
from mbjax.data.splits import STRATIFY, TEST_SHARE, VALIDATION_SHARE
from mbjax.data.tables import keel, numbers, tabular, unpacked
from mbjax.options import TEXT, TEXTS, Option, listed, nearest, shown
from mbjax.types import Dataset, UserError, first_line

TABLE = Option("table", "", TEXT, "which table of the suite")
OPTIONS = (  # of config.data
    PATH_OPTION, DIR_OPTION, TABLE, *numbers.OPTIONS, TEST_SHARE, VALIDATION_SHARE, STRATIFY,
)  # fmt: skip
ABOUT = "suite.toml"
_FOLD = re.compile(r"-\d+-\d+(tra|tst)$")  # KEEL's files of one fold, beside those of the whole table
IMBLEARN = (
    "ecoli", "optical_digits", "satimage", "pen_digits", "abalone", "sick_euthyroid", "spectrometer", "car_eval_34",
    "isolet", "us_crime", "yeast_ml8", "scene", "libras_move", "thyroid_sick", "coil_2000", "arrhythmia",
    "solar_flare_m0", "oil", "car_eval_4", "wine_quality", "letter_img", "yeast_me2", "webpage", "ozone_level",
    "mammography", "protein_homo", "abalone_19",
)  # fmt: skip

Load = Callable[..., Dataset]
"""`load(seed=…, **options) -> Dataset`, of one table; the options are those of `tabular.from_frame`."""


class Tables(NamedTuple):
    """What a suite holds.

    Attributes:
      loaders: of each table, by its name.
      problems: one line for each name that cannot be used.
    """

    loaders: Mapping[str, Load]
    problems: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Suite:
    """A task of many tables, `load(*, seed, …) -> Dataset`.

    Attributes:
      name: the task's.
      find: `find(path, dir)`, what there is; without reading the tables.
    """

    name: str
    find: Callable[[str, str], Tables]
    OPTIONS = OPTIONS

    def __call__(
        self, *, seed: int, path: str = "", dir: str = "", table: str = "", scaling: str = "standard",
        encoding: str = "none", bins: int = numbers.BINS.default, test_share: float = 0.2,
        validation_share: float = 0.0, stratify: bool = True,
    ) -> Dataset:  # fmt: skip
        """Loads a table of the suite.

        Args:
          seed: of the split.
          path: where the suite is: see `find_keel` and its kin.
          dir: the data folder; see `mbjax.data.sources.data_dir`.
          table: its name; of a suite of one table it may be left out.
          scaling, encoding, bins: see `mbjax.data.tables.numbers.fit`.
          test_share, validation_share, stratify: see `mbjax.data.splits.split_indices`.

        Raises:
          UserError: no such suite or table, or a table that cannot be read or used.
        """
        loaders, problems = self.find(path, dir)
        if not table and len(loaders) == 1:
            (table,) = loaders
        if table in problems:
            raise UserError(problems[table])
        if table not in loaders:
            meant = f"did you mean {listed(nearest(table, [*loaders]))}?" if table else f"it has {listed(loaders)}"
            raise UserError(f"config.data.table={table!r}: the suite {self.name} has no such table; {meant}")
        return loaders[table](
            seed=seed, scaling=scaling, encoding=encoding, bins=bins, test_share=test_share,
            validation_share=validation_share, stratify=stratify,
        )  # fmt: skip


def find_keel(path: str, dir: str = "") -> Tables:
    """KEEL's tables in a `.dat` file, a zip, or a folder of these; `keel.zip` in the data folder if empty.

    A table has the name of its file. Files of single folds are left out, and a name that two files have; a zip that
    cannot be read does not keep the other files from being.

    Raises:
      UserError: there is no such file or folder, or none of its files is a table.
    """
    place = find_own(path or "keel.zip", dir, wanted="a .dat file of KEEL, a zip or a folder of them")
    found, unreadable = collections.defaultdict(list), {}
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    for file in files:
        try:
            members = _members(file)
        except (OSError, zipfile.BadZipFile) as error:
            unreadable[file.stem] = f"{file} cannot be read as a zip: {first_line(error)}"
            continue
        for member in members:
            name = Path(member or file.name).stem
            if not _FOLD.search(name):
                found[name].append((str(file), member))
    if not found:
        nothing = f"config.data.path={shown(path)}: no .dat file of KEEL is there"
        raise UserError(next(iter(unreadable.values()), nothing))
    problems = unreadable | {
        name: f"{place}: two tables are named {name!r}, {' and '.join('/'.join(filter(None, p)) for p in places[:2])}: "
        "rename one"
        for name, places in found.items() if len(places) > 1
    }  # fmt: skip
    single = {name: functools.partial(_load_keel, *places[0]) for name, places in found.items() if name not in problems}
    return Tables(single, problems)


def _members(file: Path) -> list[str]:
    """The `.dat` files in a zip; of a `.dat` file itself an empty name."""
    if file.suffix == ".dat":
        return [""]
    if file.suffix != ".zip":
        return []
    with zipfile.ZipFile(file) as archive:
        return sorted(name for name in archive.namelist() if name.endswith(".dat"))


def _load_keel(file: str, member: str, *, seed: int, **options: Any) -> Dataset:
    frame, target = _read_keel(file, member, Path(file).stat().st_mtime_ns)
    return tabular.from_frame(frame, target, source=Path(member or file).stem, seed=seed, **options)


@functools.lru_cache(maxsize=128)
def _read_keel(file: str, member: str, changed: int) -> keel.Keel:
    """Small as they are, tables are read once; `changed` tells one file from another of its name."""
    del changed
    path = Path(file)
    try:
        if not member:
            return keel.read(path.read_bytes().decode(errors="replace"), path.name)
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            text = unpacked.Unpacked(stream, path).read().decode(errors="replace")
    except UserError:
        raise
    except Exception as error:  # of an archive that is damaged or encrypted, whatever the decompressors raise
        raise UserError(f"{'/'.join(filter(None, (file, member)))} cannot be read: {first_line(error)}") from None
    return keel.read(text, member)


def find_imblearn(path: str, dir: str = "") -> Tables:
    """The 27 sets of imbalanced-learn's `fetch_datasets`, which downloads them into the data folder once.

    Raises:
      UserError: a path, which this suite does not have.
    """
    if path:
        raise UserError(f"config.data.path={shown(path)}: imbalanced-learn downloads this suite into config.data.dir")
    return Tables({name: functools.partial(_load_imblearn, name, dir) for name in IMBLEARN}, {})


def _load_imblearn(name: str, dir: str, *, seed: int, **options: Any) -> Dataset:
    from imblearn import datasets

    try:
        found = datasets.fetch_datasets(data_home=str(data_dir(dir)), filter_data=(name,))[name]
    except (OSError, ValueError) as error:
        raise UserError(f"{name} could not be fetched by imbalanced-learn: {first_line(error)}") from None
    frame = pd.DataFrame(np.asarray(found.data, np.float64)).rename(columns="x{}".format)
    return tabular.from_frame(frame.assign(label=found.target), "label", source=name, seed=seed, **options)


def find_own_suite(path: str, dir: str = "") -> Tables:
    """A folder with tables and a `suite.toml`, which has a section for each: `[churn]` with `file`, `target`, `drop`.

    Raises:
      UserError: no such folder, or a file that is no such TOML.
    """
    place = find_own(path, dir, wanted=f"a folder with tables and {ABOUT}")
    about = place / ABOUT if place.is_dir() else place
    try:
        sections = tomllib.loads(about.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{about} cannot be read as TOML: {first_line(error)}") from None
    loaders, problems = {}, {}
    for name, section in sections.items():
        try:
            loaders[name] = _own_loader(name, section, about)
        except UserError as error:
            problems[name] = str(error)
    return Tables(loaders, problems)


def _own_loader(name: str, section: Any, about: Path) -> Load:
    if not isinstance(section, dict) or not {"file", "target"} <= set(section) <= {"file", "target", "drop"}:
        raise UserError(f"{about}: [{name}] needs file and target, and may have drop")
    file, target, drop = section["file"], section["target"], section.get("drop", [])
    if not (isinstance(file, str) and isinstance(target, str) and isinstance(drop, list) and TEXTS.valid(tuple(drop))):
        raise UserError(f"{about}: [{name}]: file and target are texts, drop a list of texts")
    place = about.parent / file
    if not place.is_file():
        raise UserError(f"{about}: [{name}]: there is no {place}")

    def load(*, seed: int, **options: Any) -> Dataset:
        return tabular.load(seed=seed, path=str(place), target=target, drop=tuple(drop), **options)

    return load


SUITES: dict[str, Suite] = {
    "keel": Suite("keel", find_keel), "imblearn": Suite("imblearn", find_imblearn),
    "own": Suite("own", find_own_suite),
}  # fmt: skip
"""The suites by their names, which are tasks, too."""
