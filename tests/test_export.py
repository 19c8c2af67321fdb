"""Exported models give the predictor's probabilities: ONNX in onnxruntime, StableHLO in a process without mbjax."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from mbjax.data.arrays import Arrays
from mbjax.data.tables import tabular
from mbjax.export import to_onnx, to_stablehlo
from mbjax.export.__main__ import main
from mbjax.predict import Predictor
from tests.test_predict import of_network, people

PRIORS: dict[str, Any] = {"priors": np.array([0.95, 0.05]), "sampled_priors": np.array([0.5, 0.5]), "temperature": 1.7}
IMAGES = {
    "cnn": {"name": "cnn", "channels": (3, 4)},
    "pooled": {"name": "cnn", "channels": (3, 4), "pooling": "mean"},
    "resnet18": {"name": "resnet18", "width": 4, "stages": (1, 2)},
    "natural": {
        "name": "resnet50",
        "width": 4,
        "stages": (1, 1),
        "stem": "imagenet",
        "normalize": "imagenet",
        "head": "cosine",
    },
    "tvmf": {"name": "cnn", "channels": (3,), "head": "tvmf"},
    "cosine": {"name": "resnet18", "width": 4, "stages": (1, 1), "head": "cosine", "embedding": 6, "stem_stride": 2},
}


def table() -> tuple[Predictor, pd.DataFrame]:
    frame = people()
    dataset = tabular.from_frame(frame, "ill", source="people", seed=0)
    first, *others = dataset.preprocessing.numbers  # the first is cut off where robust scaling would
    columns = dataclasses.replace(dataset.preprocessing, numbers=(dataclasses.replace(first, limit=0.5), *others))
    return of_network({"name": "mlp", "hidden": (8, 4)}, columns, columns.features, **PRIORS), frame


def images(name: str) -> tuple[Predictor, np.ndarray]:
    rng = np.random.default_rng(0)
    model = of_network(IMAGES[name], Arrays((8, 8, 3), "uint8"), 8, 8, 3, outputs=4, temperature=0.4)
    return model, rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)


def raw_inputs(columns: Any, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """A table as another program would hand it to ONNX."""
    numbers = {
        n.name: np.asarray(pd.to_numeric(frame.loc[:, n.name], errors="coerce"), float)[:, None]
        for n in columns.numbers
    }
    text = {c.name: frame[c.name].fillna("").astype(str).to_numpy(object)[:, None] for c in columns.categories}
    return {**numbers, **text}


def run_onnx(content: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    return np.asarray(onnxruntime.InferenceSession(content).run(None, inputs)[0])


@pytest.mark.parametrize("rows", [1, 240])
def test_onnx_of_a_table(rows):
    model, frame = table()
    frame = frame.iloc[:rows].copy()
    frame.loc[0, "town"] = "Paris"  # unseen
    expected = model.predict_proba(frame)
    got = run_onnx(to_onnx(model), raw_inputs(model.preprocessing, frame))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_onnx_of_images(name):
    model, x = images(name)
    expected = model.predict_proba(x)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(run_onnx(to_onnx(model), {"x": x}), expected, atol=1e-5)


def test_stablehlo_of_a_table_in_a_process_that_reads_it(tmp_path):
    model, frame = table()
    model.save(tmp_path / "model")
    main([str(tmp_path / "model"), "--format=stablehlo", f"--out={tmp_path / 'people.stablehlo'}"])
    frame.loc[0, "town"] = "Paris"
    raw = raw_inputs(model.preprocessing, frame)
    about = json.loads((tmp_path / "people.stablehlo.json").read_text())
    assert about["classes"] == ["no", "yes"]
    codes = {c: [-1 if v == "" else values.index(v) if v in values else -2 for v in raw[c][:, 0]] for c, values in
             about["codes"].items()}  # fmt: skip
    numbers = np.concatenate([raw[name] for name in about["numbers"]], axis=1)
    np.savez(tmp_path / "x.npz", numbers=numbers, codes=np.array(list(codes.values()), np.int32).T)
    (tmp_path / "read.py").write_text(READ)
    subprocess.run([sys.executable, "read.py"], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), model.predict_proba(frame), atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "one.npy"), model.predict_proba(frame.iloc[:1]), atol=1e-5)


READ = """
import sys, jax, numpy as np
from jax import export
jax.config.update("jax_enable_x64", True)
model = export.deserialize(open("people.stablehlo", "rb").read())
x = np.load("x.npz")
np.save("p.npy", model.call(x["numbers"], x["codes"]))
np.save("one.npy", model.call(x["numbers"][:1], x["codes"][:1]))
assert "mbjax" not in sys.modules
"""


@pytest.mark.parametrize("name", ["cnn", "cosine"])
def test_stablehlo_of_images(name):
    model, x = images(name)
    content, about = to_stablehlo(model)
    assert about == {"classes": list("abcd"), "shape": [8, 8, 3], "dtype": "uint8"}
    with jax.enable_x64(True):
        got = np.asarray(jax.export.deserialize(bytearray(content)).call(x))
    np.testing.assert_allclose(got, model.predict_proba(x), atol=1e-5)


def test_the_command_writes_onnx(tmp_path, capsys):
    model, frame = table()
    model.save(tmp_path / "model")
    main([str(tmp_path / "model"), "--format=onnx", f"--out={tmp_path / 'people.onnx'}"])
    assert capsys.readouterr().out.endswith(f"bytes in {tmp_path / 'people.onnx'}\n")
    content = pathlib.Path(tmp_path / "people.onnx").read_bytes()
    np.testing.assert_allclose(
        run_onnx(content, raw_inputs(model.preprocessing, frame)), model.predict_proba(frame), atol=1e-5
    )
