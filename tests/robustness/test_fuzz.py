"""Absurd tables, labels, configurations and files: each gives a result or one readable line, and nothing else."""

import contextlib
import datetime
import decimal
import json
import math
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import example, given
from hypothesis import strategies as st

from mbjax import config as config_lib
from mbjax import sealed
from mbjax.compare import driver
from mbjax.data.images.labelled import read_arrays
from mbjax.data.tables import tabular
from mbjax.options import flatten
from mbjax.train.folder import Folder
from mbjax.types import UserError


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """A UserError is what an absurd input may end in; its message is one line of a bearable length."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about what they are given
            yield
    except UserError as error:
        text = str(error)
        if "\n" in text or len(text) > 2000:
            raise AssertionError(f"a message of {len(text)} characters: {text[:300]}") from error


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=8),
    st.decimals(allow_nan=False), st.dates(), st.timedeltas(), st.complex_numbers(),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


# Tables.

CSV = st.one_of(
    st.text(alphabet=st.sampled_from('abcy01.,;"\n\r\t\0 eE-+é'), max_size=200),
    st.lists(st.tuples(st.floats(), st.text(max_size=5), st.sampled_from("ab")), max_size=40).map(
        lambda rows: "x,t,y\n" + "".join(f"{x},{text!r},{y}\n" for x, text, y in rows)
    ),
)


@given(CSV, st.sampled_from(["y", "x", "t", ""]))
@example("x,y\n" + "1,a\n2,b\n" * 20, "y")
@example("y,y\n1,2\n", "y")
@example("x,y\n" + "inf,a\n-inf,b\n" * 9, "y")
@example('"x\n', "x")
def test_any_text_as_a_table(text: str, target: str):
    with tempfile.TemporaryDirectory() as folder, one_line():
        file = pathlib.Path(folder, "a.csv")
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        dataset = tabular.load(seed=0, path=str(file), target=target)
        assert np.isfinite(dataset.train.x).all()
        assert dataset.train.y.max() < len(dataset.classes)


@given(
    st.binary(max_size=300),
    st.sampled_from([".csv", ".csv.gz", ".csv.xz", ".csv.zst", ".csv.bz2", ".csv.zip", ".csv.tar", ".parquet"]),
)
def test_any_bytes_as_a_table(content: bytes, ending: str):
    with tempfile.TemporaryDirectory() as folder, one_line():
        file = pathlib.Path(folder, f"a{ending}")
        file.write_bytes(content)
        tabular.read_table(file)


@given(st.lists(ANYTHING, min_size=1, max_size=40), st.integers(1, 12))
@example([datetime.timedelta(1), datetime.timedelta(2)], 8)
@example([decimal.Decimal("1.0"), "a"], 8)
@example([b"\xff", b"a"], 8)
@example([[1], [2]], 8)
@example([{"a": 1}, None], 8)
def test_any_column_as_labels_and_as_a_feature(values: list[Any], times: int):
    column = pd.Series(values * times, dtype=object)
    labels = pd.Series((["a", "b"] * len(column))[: len(column)])
    with one_line():
        tabular.from_frame(pd.DataFrame({"x": column, "y": labels}), "y", source="a", seed=0)
    with one_line():
        tabular.from_frame(pd.DataFrame({"x": np.arange(len(column)), "y": column}), "y", source="a", seed=0)


# Archives.


@given(st.data())
def test_any_damage_to_an_archive_of_arrays(data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "a.npz")
        save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
        save(file, x=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), y=np.array(["a", "b", "a"]))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        with one_line():
            read_arrays(file)


# Configurations.

KEYS = sorted(flatten(config_lib.base().to_dict()))
ODD = st.sampled_from(
    [
        10**400, 2**63, -1, 0, 1e-300, math.nan, math.inf, "over", "x" * 10_000, "\ud800", (), (math.nan,), (2.5,),
        {"a": 1}, {"0": 10**10}, {(): 1}, {"0": math.nan}, set(), object(), np.float32(3), np.array([1, 2]), range(3),
        lambda: 1, b"x", 2j,
    ]
)  # fmt: skip


@given(st.sampled_from(KEYS), ODD | ANYTHING)
@example("data.dir", np.array([1, 2]))
@example("support.sampling_strategy", {"": []})
@example("data.path", {"": [], "a": ()})
def test_any_value_of_any_key_of_a_configuration(key: str, value: Any):
    config = config_lib.base()
    section, _, name = key.rpartition(".")
    try:
        node = config[section] if section else config
        with config.unlocked(), node.ignore_type():
            node[name] = value
    except Exception:  # ml_collections takes no such value
        return
    with one_line():
        config_lib.validate(config)


@given(ANYTHING)
@example({})
@example({"task": "digits"})
def test_anything_in_place_of_a_configuration(value: Any):
    with one_line():
        config_lib.validate(value)
        raise AssertionError(f"{value!r} was taken for a configuration")


# What mbjax reads back.


@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda k: k != "checksum"),
        st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
        max_size=4,
    ),
    st.data(),
)
def test_a_changed_byte_of_a_row_is_noticed_or_changes_nothing(row: dict[str, Any], data: st.DataObject):
    text = sealed.dumps(row)
    assert sealed.loads(text) == row
    content = bytearray(text.encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = sealed.loads(content.decode())
    except (sealed.Damaged, UnicodeDecodeError):
        return
    # The name of the checksum itself may be what changed: the row is then whole, with one key more.
    assert {key: read[key] for key in row} == row
    assert len(read) <= len(row) + 1


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value, default=str).encode()))
@example(b'{"\\n": false}')
@example(json.dumps({"k" * 5000: 1}).encode())
def test_any_bytes_in_the_files_of_a_run(content: bytes):
    valid = config_lib.validate(config_lib.base())
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(pathlib.Path(name))
        for file in (folder.config, folder.metrics, folder.result):
            file.write_bytes(content)
        driver.append(pathlib.Path(name, "results.jsonl"), [{"key": "k", "status": "ok"}])
        with pathlib.Path(name, "results-0.jsonl").open("wb") as stream:
            stream.write(content)
        with one_line():
            folder.finished()
        with one_line():
            folder.rewind(10, (10,))
        with one_line():
            folder.claim(valid, 30)
        assert "k" in driver.read(pathlib.Path(name))
