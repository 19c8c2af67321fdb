"""Damage to the files of a model that predicts: they are refused in one line, or predict what they did before."""

import copy
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_fuzz import ANYTHING, one_line

import mbjax
from mbjax import models
from mbjax.data.arrays import Arrays
from mbjax.data.tables.columns import TableColumns
from mbjax.predict import Predictor, files
from mbjax.types import UserError

FRAME = pd.DataFrame({"a": [1.0, 2, 3, np.nan], "b": [0, 10, 20, 30], "c": ["x", "y", "y", "z"]})
COLUMNS = TableColumns.fit(FRAME, numbers=["a", "b"], categories=["c"], ignored=("t",))
INPUTS = {"a table": FRAME, "arrays": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)}
FILES = (files.ABOUT, files.WEIGHTS)


def predictor(kind: str, seed: int) -> Predictor:
    """A network that nobody trained."""
    made = COLUMNS if kind == "a table" else Arrays((4,), "float32")
    model = {"name": "mlp", "hidden": (4,), "outputs": 1}
    x = np.zeros((1, COLUMNS.features if kind == "a table" else 4), np.float32)
    variables = jax.tree.map(np.asarray, models.build(**model).init(jax.random.key(seed), x, train=False))
    priors = np.array([0.3, 0.7])
    return Predictor(model, variables, made, ("no", "yes"), priors, priors, labels=np.array([0, 1]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, tuple[pathlib.Path, bytes]]:
    """The folders of models, two of each kind, and what they predict."""
    found = {}
    for kind, seed in (("a table", 0), ("a table", 1), ("arrays", 0), ("arrays", 1)):
        folder = tmp_path_factory.mktemp("models") / "model"
        predictor(kind, seed).save(folder)
        found[f"{kind} {seed}"] = folder, mbjax.load(folder).predict_proba(INPUTS[kind]).tobytes()
    return found


KINDS = st.sampled_from(["a table", "arrays"])


def check(folder: pathlib.Path, kind: str, *allowed: bytes) -> None:
    with one_line():
        assert mbjax.load(folder).predict_proba(INPUTS[kind]).tobytes() in allowed


@given(KINDS, st.sampled_from(FILES), st.data())
def test_any_flipped_bit_or_truncation_is_refused_or_changes_nothing(whole, kind: str, name: str, data: st.DataObject):
    folder, predicted = whole[f"{kind} 0"]
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        content = bytearray((folder / name).read_bytes())
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(1, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        pathlib.Path(place, name).write_bytes(content)
        check(pathlib.Path(place), kind, predicted)


@given(
    KINDS, st.sampled_from(FILES), st.binary(max_size=200) | ANYTHING.map(lambda v: json.dumps(v, default=str).encode())
)
@example("arrays", files.ABOUT, b"[" * 100_000)
@example("arrays", files.ABOUT, b'{"format": Infinity}')
@example("arrays", files.ABOUT, b'{"format": 1e400}')
@example("arrays", files.ABOUT, b'{"format": null}')
@example("arrays", files.ABOUT, b"\xff\xfe")
def test_any_bytes_in_place_of_a_file_are_refused(whole, kind: str, name: str, content: bytes):
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(whole[f"{kind} 0"][0], place, dirs_exist_ok=True)
        pathlib.Path(place, name).write_bytes(content)
        check(pathlib.Path(place), kind)


@pytest.mark.parametrize("kind", ["a table", "arrays"])
@pytest.mark.parametrize("name", FILES)
def test_files_of_two_models_are_refused(whole, kind, name, tmp_path):
    shutil.copytree(whole[f"{kind} 0"][0], tmp_path / "mixed")
    shutil.copy(whole[f"{kind} 1"][0] / name, tmp_path / "mixed")
    with pytest.raises(UserError, match=r"model.json and weights.safetensors do not belong together"):
        mbjax.load(tmp_path / "mixed")


def paths(about: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON."""
    parts = about.items() if isinstance(about, dict) else enumerate(about) if isinstance(about, list) else ()
    for key, value in parts:
        yield (*before, key)
        yield from paths(value, (*before, key))


def edited(about: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """JSON with a value replaced, removed, or put elsewhere."""
    about = copy.deepcopy(about)
    *way, last = data.draw(st.sampled_from(sorted(paths(about), key=str)))
    node = about
    for key in way:
        node = node[key]
    if data.draw(st.integers(0, 4)) == 0:
        del node[last]
    else:
        odd = st.sampled_from([0, -1, 1.5, 10**12, 10**400, "x", [], {}, None, [1], float("nan"), [0.5, -0.5]])
        node[last] = json.loads(json.dumps(data.draw(odd | ANYTHING), default=str))
    return about


@given(KINDS, st.data())
def test_an_edited_model_is_refused(whole, kind: str, data: st.DataObject):
    folder, predicted = whole[f"{kind} 0"]
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        about = json.loads((folder / files.ABOUT).read_text())
        changed = edited(about, data)
        pathlib.Path(place, files.ABOUT).write_text(json.dumps(changed))
        check(pathlib.Path(place), kind, *([predicted] if changed == about else []))


@pytest.mark.parametrize("value", [None, "nothing", 10**12])
def test_a_model_that_lacks_a_part_is_refused_also_with_a_digest(whole, value, tmp_path):
    shutil.copytree(whole["a table 0"][0], tmp_path, dirs_exist_ok=True)
    about = json.loads((tmp_path / files.ABOUT).read_text())
    del about["digest"]
    for key in about.keys() - {"mbjax", "format", "labels"}:
        changed = {name: part for name, part in about.items() if name != key}
        if value is not None:
            changed[key] = value
        if key == "temperature" and value == 10**12:
            continue  # which is one
        changed["digest"] = files._digest(changed)
        (tmp_path / files.ABOUT).write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"is no model that mbjax wrote \(\w+: [^\n]+\)$"):
            mbjax.load(tmp_path)


@given(KINDS, st.data())
def test_an_edited_model_that_was_given_its_digest_is_refused_or_predicts(whole, kind: str, data: st.DataObject):
    folder, _ = whole[f"{kind} 0"]
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        about = json.loads((folder / files.ABOUT).read_text())
        del about["digest"]
        about = edited(about, data)
        about["digest"] = files._digest(about)
        pathlib.Path(place, files.ABOUT).write_text(json.dumps(about))
        with one_line():
            model = mbjax.load(place)
            assert model.predict_proba(INPUTS[kind]).shape == (len(INPUTS[kind]), 2)
            model.predict(INPUTS[kind])
