"""Suites: what each finds, what it refuses in one line, and that the rest can still be used."""

import os
import pathlib
import zipfile
from types import SimpleNamespace

import imblearn.datasets
import numpy as np
import pytest

from mbjax import config as config_lib
from mbjax import data
from mbjax.data.tables import suites
from mbjax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]


def dat(seed: int, rows: int = 60, numbers: int = 2, share: float = 0.25) -> str:
    """A table in KEEL's format: numbers, a nominal attribute, and a rare class that the first number tells."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) < share * rows
    x = rng.normal(size=(rows, numbers)) + 1.5 * y[:, None] * (np.arange(numbers) == 0)
    head = [f"@relation t{seed}", *(f"@attribute x{i} real [-9, 9]" for i in range(numbers))]
    head += ["@attribute kind {a, b}", "@attribute Class {positive, negative}", "@data"]
    kinds = rng.choice(["a", "b"], rows)
    lines = [
        ", ".join([*(f"{value:.4f}" for value in row), kind, "positive" if own else "negative"])
        for row, kind, own in zip(x, kinds, y, strict=True)
    ]
    return "\n".join([*head, *lines]) + "\n"


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Five tables, of which two cannot be used: `twice` is there twice, `wide` has a line too long."""
    place = tmp_path / "keel"
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
    (place / "a" / "one.dat").write_text(dat(1))
    (place / "a" / "one-5-1tra.dat").write_text(dat(1))
    (place / "a" / "twice.dat").write_text(dat(2))
    (place / "wide.dat").write_text(dat(3) + "1, 2, 3, a, positive\n")
    with zipfile.ZipFile(place / "b" / "more.zip", "w") as archive:
        archive.writestr("twice/twice.dat", dat(4))
        archive.writestr("two/two.dat", dat(5, rows=40, numbers=3))
        archive.writestr("readme.txt", "nothing")
    return place


def test_keel_in_folders_and_zips(folder):
    found = suites.find_keel(str(folder))
    assert list(found.loaders) == ["one", "two", "wide"]
    assert list(found.problems) == ["twice"]
    two = data.load("keel", seed=3, path=str(folder), table="two", test_share=0.5)
    assert (two.source, len(two.test), two.train.x.shape[1]) == ("two", 20, 5)
    assert two.classes == ("negative", "positive")
    alone = data.load("keel", seed=3, path=str(folder / "a" / "one.dat"))
    assert len(alone.train) == 48


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("twice", r"two tables are named 'twice', .*a/twice\.dat and .*more\.zip/twice/twice\.dat: rename one"),
        ("wide", r"wide\.dat, line 67: 5 values for the 4 attributes"),
        ("tvo", r"config\.data\.table='tvo': the suite keel has no such table; did you mean 'two'\?"),
        ("", r"the suite keel has no such table; it has 'one', 'two', 'wide'"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(folder, table, message):
    with pytest.raises(UserError, match=message) as error:
        data.load("keel", seed=0, path=str(folder), table=table)
    assert "\n" not in str(error.value)


def test_no_suite(tmp_path):
    with pytest.raises(UserError, match=r"no \.dat file of KEEL is there"):
        suites.find_keel(str(tmp_path))
    (tmp_path / "bad.zip").write_text("no zip")
    with pytest.raises(UserError, match=r"bad\.zip cannot be read as a zip"):
        suites.find_keel(str(tmp_path))
    (tmp_path / "good.dat").write_text(dat(1))  # which a bad file beside it does not stop
    found = suites.find_keel(str(tmp_path))
    assert list(found.loaders) == ["good"]
    assert "bad.zip cannot be read as a zip" in found.problems["bad"]


@pytest.mark.parametrize("damage", ["encrypted", "another method", "flipped", "too large"])
def test_a_damaged_archive_is_one_line(tmp_path, monkeypatch, damage):
    file = tmp_path / "one.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.dat", dat(1))
    content = bytearray(file.read_bytes())
    for start, flags in ((content.index(b"PK\x03\x04"), 6), (content.index(b"PK\x01\x02"), 8)):
        content[start + flags] |= damage == "encrypted"
        if damage == "another method":
            content[start + flags + 2] = 99
    if damage == "flipped":
        content[60:90] = b"\xff" * 30
    file.write_bytes(content)
    message = "cannot be read"
    if damage == "too large":
        monkeypatch.setattr(suites.unpacked, "free_memory", lambda: 1000)
        message = "unpacks to a table that takes"
    with pytest.raises(UserError, match=rf"one\.zip.* {message}") as error:
        data.load("keel", seed=0, path=str(file))
    assert "\n" not in str(error.value)


def test_a_suite_of_ones_own(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id,x,y\n" + "".join(f"r{i},{i % 7},{'yes' if i % 5 == 0 else 'no'}\n" for i in range(50))
    )
    (tmp_path / "suite.toml").write_text(
        '[first]\nfile = "a.csv"\ntarget = "y"\ndrop = ["id"]\n[gone]\nfile = "b.csv"\ntarget = "y"\n'
        '[half]\nfile = "a.csv"\n[text]\nfile = "a.csv"\ntarget = "y"\ndrop = "id"\n'
    )
    found = suites.find_own_suite(str(tmp_path))
    assert list(found.loaders) == ["first"]
    assert "[gone]: there is no" in found.problems["gone"]
    assert "[half] needs file and target, and may have drop" in found.problems["half"]
    assert "[text]: file and target are texts, drop a list of texts" in found.problems["text"]
    first = data.load("own", seed=0, path=str(tmp_path), table="first", encoding="piecewise_linear", bins=3)
    assert first.train.x.shape == (40, 3)
    assert first.preprocessing.ignored == ("y", "id")
    (tmp_path / "suite.toml").write_text('[a]\nfile = "a.csv"\n[a]\nfile = "b.csv"\n')
    with pytest.raises(UserError, match=r"suite\.toml cannot be read as TOML"):
        suites.find_own_suite(str(tmp_path))


def test_imblearns_sets_come_from_its_own_function(monkeypatch, tmp_path):
    def fetch(*, data_home, filter_data):
        assert (data_home, filter_data) == (str(tmp_path), ("oil",))
        return {
            "oil": SimpleNamespace(data=np.arange(120.0).reshape(60, 2), target=np.where(np.arange(60) < 12, 1, -1))
        }

    monkeypatch.setattr(imblearn.datasets, "fetch_datasets", fetch)
    assert len(suites.find_imblearn("").loaders) == 27
    oil = data.load("imblearn", seed=0, table="oil", dir=str(tmp_path))
    assert oil.classes == ("-1", "1")
    assert oil.class_counts.tolist() == [38, 10]
    with pytest.raises(UserError, match=r"config\.data\.path='x': imbalanced-learn downloads"):
        suites.find_imblearn("x")


def test_a_table_is_a_change_of_the_configuration(folder):
    settings = config_lib.base()
    config_lib.change(
        settings, {"task": "keel", "data.path": str(folder), "data.table": "two", "data.test_share": 0.25}
    )
    valid = config_lib.validate(settings)
    assert len(data.load(valid.task, seed=0, **valid.data).test) == 10


ZIP = pathlib.Path(os.environ.get("MBJAX_DATA_DIR", "/nowhere"), "keel.zip")


@pytest.mark.skipif(not ZIP.exists(), reason="keel.zip is not in MBJAX_DATA_DIR")
def test_the_archive_has_69_tables():
    found = suites.find_keel("")
    assert (len(found.loaders), len(found.problems)) == (69, 0)
