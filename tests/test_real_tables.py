"""Real, messy tables, from training to predictions elsewhere: ids, blanks for numbers, strings, leaks to be dropped."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import mbjax
from mbjax import config_files, train
from mbjax.data import splits
from mbjax.data.tables.columns import TableColumns
from mbjax.export.__main__ import main as export

TABLES: dict[str, dict[str, Any]] = {
    "stroke.csv": {"target": "stroke", "drop": ("id",)},
    "telco_churn.csv": {"target": "Churn", "drop": ("customerID",)},
    # The last five say of which kind the failure was.
    "ai4i2020.csv": {"target": "Machine failure", "drop": ("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF")},
}
FOLDER = pathlib.Path(os.environ.get("MBJAX_DATA_DIR", "/nowhere"))
pytestmark = pytest.mark.skipif(not all((FOLDER / name).exists() for name in TABLES), reason="needs the tables")

# Another process in another folder, which has the held-back rows and what was written of the models.
ELSEWHERE = """
import pathlib, sys
import jax, numpy as np, onnxruntime, pandas as pd
from jax import export
import mbjax
from mbjax.predict.__main__ import main

for place in pathlib.Path().iterdir():
    if not place.is_dir():
        continue
    held = str(place / "held.csv")
    main([str(place / "run_model"), held, f"--out={place / 'scores.parquet'}"])
    main([str(place / "run_model"), held, f"--out={place / 'raw.csv'}", "--priors=raw"])
    main([str(place / "estimator"), held, f"--out={place / 'estimator.parquet'}"])
    np.save(place / "loaded.npy", mbjax.load(place / "run_model").predict_proba(pd.read_csv(held)))
    given = np.load(place / "inputs.npz")
    session = onnxruntime.InferenceSession((place / "model.onnx").read_bytes())
    raw = {i.name: given[i.name].astype(object) if "string" in i.type else given[i.name] for i in session.get_inputs()}
    np.save(place / "onnx.npy", session.run(None, raw)[0])
    with jax.enable_x64(True):
        model = export.deserialize(bytearray((place / "model.stablehlo").read_bytes()))
        np.save(place / "stablehlo.npy", model.call(given["numbers"], given["codes"]))
"""


class Ran(NamedTuple):
    """What a run and an estimator said of the held-back rows here, and the folder of what was said elsewhere."""

    raw: np.ndarray
    calibrated: np.ndarray
    estimator: np.ndarray
    place: pathlib.Path
    held: pd.DataFrame


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, Ran]:
    here, elsewhere = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("elsewhere")
    made = {name: _train(name, here / name, elsewhere / pathlib.Path(name).stem) for name in TABLES}
    shutil.rmtree(here)
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=elsewhere, check=True)
    return made


def _train(name: str, here: pathlib.Path, elsewhere: pathlib.Path) -> Ran:
    """Trains a run and an estimator without the held-back rows, and lays what they wrote in another folder."""
    elsewhere.mkdir()
    config = config_files.load("configs/tabular.py")
    config.data.update(path=str(FOLDER / name), validation_share=0.2, **TABLES[name])
    config.model.hidden = (8,)
    config.meta.steps, config.updates = 4, 20
    train.train_and_evaluate(config, here / "run")
    shutil.copytree(here / "run/model", elsewhere / "run_model")

    frame, target = pd.read_csv(FOLDER / name), TABLES[name]["target"]
    y, _, _ = splits.encode_labels(frame.loc[:, target])
    rows = splits.split_indices(y, seed=config.seed, test_share=0.2, validation_share=0.2)
    lines = (FOLDER / name).read_text().splitlines()  # as the file spells them
    held = [lines[0], *(lines[1 + row] for row in rows["test"])]
    (elsewhere / "held.csv").write_text("\n".join(held) + "\n")
    features = frame.drop(columns=[target, *TABLES[name]["drop"]])
    estimator = mbjax.MetaBalanceClassifier(hidden=(8,), max_updates=20, random_state=0)
    estimator.fit(features.iloc[rows["train"]], frame.loc[rows["train"], target])
    estimator.predictor_.save(elsewhere / "estimator")

    for form in ("onnx", "stablehlo"):
        export([str(here / "run"), f"--format={form}", f"--out={elsewhere / f'model.{form}'}"])
    model = mbjax.load(here / "run")
    _write_inputs(elsewhere, model.preprocessing, frame.iloc[rows["test"]])
    raw = np.load(here / "run/predictions.npz")["probabilities"]
    said = estimator.predict_proba(features.iloc[rows["test"]])
    return Ran(raw, model.calibrate(raw), said, elsewhere, frame.iloc[rows["test"]])


def _write_inputs(folder: pathlib.Path, columns: Any, held: pd.DataFrame) -> None:
    """The held-back rows as a program without mbjax hands them to ONNX, by column, and to StableHLO, by codes."""
    assert isinstance(columns, TableColumns)
    numbers = {
        n.name: np.asarray(pd.to_numeric(held.loc[:, n.name], errors="coerce"), float)[:, None] for n in columns.numbers
    }
    text = {c.name: held[c.name].fillna("").astype(str).to_numpy(str)[:, None] for c in columns.categories}
    known = json.loads((folder / "model.stablehlo.json").read_text())["codes"]
    code = lambda values, v: -1 if v == "" else values.index(v) if v in values else -2  # noqa: E731
    codes = [[code(values, v) for v in text[name][:, 0]] for name, values in known.items()]
    given: dict[str, Any] = {**numbers, **text}
    np.savez(
        folder / "inputs.npz",
        numbers=np.concatenate(list(numbers.values()), axis=1),
        codes=np.array(codes, np.int32).T.reshape(len(held), -1),
        **given,
    )


@pytest.mark.parametrize("name", TABLES)
def test_every_way_to_predict_gives_the_runs_own_test_predictions(ran, name):
    run = ran[name]
    assert np.ptp(run.raw[:, 1]) > 0.01  # it has learned something that could differ
    raw, scores = pd.read_csv(run.place / "raw.csv"), pd.read_parquet(run.place / "scores.parquet")
    probabilities = [column for column in scores if column.startswith("probability_")]
    np.testing.assert_allclose(raw[probabilities], run.raw, atol=1e-6, rtol=0)
    np.testing.assert_allclose(scores[probabilities], run.calibrated, atol=1e-6, rtol=0)
    np.testing.assert_allclose(np.load(run.place / "loaded.npy"), run.calibrated, atol=1e-6, rtol=0)
    for form in ("onnx", "stablehlo"):
        np.testing.assert_allclose(np.load(run.place / f"{form}.npy"), run.calibrated, atol=1e-5, rtol=0)
    estimator = pd.read_parquet(run.place / "estimator.parquet")
    np.testing.assert_allclose(estimator[probabilities], run.estimator, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TABLES)
def test_scores_keep_the_rows_of_the_file(ran, name):
    run, scores = ran[name], pd.read_parquet(ran[name].place / "scores.parquet")
    first = TABLES[name]["drop"][0]
    assert scores[first].tolist() == run.held[first].tolist()
    assert list(scores)[: run.held.shape[1]] == list(run.held)
