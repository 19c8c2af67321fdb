"""The model that predicts: the path of a new row is that of training's, whatever brings it."""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import warnings
from typing import Any

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

import mbjax
from mbjax import config_files, data, models, train
from mbjax.data import sources, splits
from mbjax.data.arrays import Arrays
from mbjax.data.tables import tabular
from mbjax.data.tables.columns import TableColumns
from mbjax.evaluation.decisions import Decision
from mbjax.predict import Predictor, files, inputs, tables
from mbjax.predict.__main__ import main, write_scores
from mbjax.types import UserError

FIXTURES = pathlib.Path(__file__).parent / "models"


def people(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """A table with all that tables have: numbers with gaps and blanks, strings with gaps, bools, an id, a target."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, n).round(1)
    town = rng.choice(["Rome", "Oslo", "Bern"], n)
    income = pd.Series(rng.normal(3000, 500, n).round(2)).astype(str).to_numpy(object)
    income[::17] = " "
    frame = pd.DataFrame(
        {"id": np.arange(n), "age": age, "town": town, "income": income, "member": rng.random(n) > 0.5}
    )
    frame.loc[::11, "age"] = np.nan
    frame.loc[5::13, "town"] = None
    rare = (age + 10 * (town == "Oslo") + rng.normal(0, 8, n)) > 58
    frame["ill"] = np.where(rare, "yes", "no")
    return frame


def config_of(folder: pathlib.Path) -> Any:
    config = config_files.load("configs/tabular.py")
    config.data.update(path=str(folder / "people.csv"), target="ill", drop=("id",), validation_share=0.25)
    config.model.hidden = (8,)
    config.meta.steps = 4
    config.updates = 20
    config.decision.metric = "balanced_accuracy"
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A finished run on `people`, and the rows of its test part in `held.csv`."""
    folder = tmp_path_factory.mktemp("run")
    people().to_csv(folder / "people.csv", index=False)
    train.train_and_evaluate(config_of(folder), folder / "run")
    frame = tabular.read_table(folder / "people.csv")
    y, _, _ = splits.encode_labels(frame.loc[:, "ill"])
    index = splits.split_indices(y, seed=0, test_share=0.2, validation_share=0.25)
    frame.iloc[index["test"]].to_csv(folder / "held.csv", index=False)
    return folder / "run"


@pytest.fixture
def held(run) -> pd.DataFrame:
    return pd.read_csv(run.parent / "held.csv")


def own(run: pathlib.Path) -> np.ndarray:
    return np.load(run / "predictions.npz")["probabilities"]


def small(**changes: Any) -> Predictor:
    """A network that nobody trained, of two numbers and a category."""
    frame = pd.DataFrame({"a": [1.0, 2, 3, np.nan], "b": [0, 10, 20, 30], "c": ["x", "y", "y", "z"]})
    columns = TableColumns.fit(frame, numbers=["a", "b"], categories=["c"], ignored=("t",))
    return of_network({"name": "mlp", "hidden": (4,)}, columns, columns.features, **changes)


def of_network(model: dict[str, Any], preprocessing: Any, *shape: int, outputs: int = 1, **changes: Any) -> Predictor:
    model = {**model, "outputs": outputs}
    zeros, rng = np.zeros((1, *shape), np.float32), np.random.default_rng(0)
    # Of the shapes alone: to run the initialisers would compile them, test by test.
    shapes: Any = jax.eval_shape(lambda: models.build(**model).init(jax.random.key(0), zeros, train=False))
    variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)
    variables["params"] = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes["params"])
    classes = ("no", "yes") if outputs == 1 else tuple("abcdefghij"[:outputs])
    equal = np.full(len(classes), 1 / len(classes))
    given = {"classes": classes, "priors": equal, "sampled_priors": equal, **changes}
    return Predictor(model, variables, preprocessing, **given)


class TestARun:
    def test_predicts_what_it_predicted_in_another_process_and_folder(self, run, held, tmp_path):
        shutil.copytree(run / "model", tmp_path / "elsewhere")
        shutil.copy(run.parent / "held.csv", tmp_path)
        command = [sys.executable, "-m", "mbjax", "predict", "elsewhere", "held.csv", "--out=scores.parquet"]
        done = subprocess.run([*command, "--priors=raw"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"{len(held)} rows in scores.parquet\n"
        scores = pd.read_parquet(tmp_path / "scores.parquet")
        assert list(scores) == [*held, "probability_no", "probability_yes", "decision"]
        np.testing.assert_allclose(scores[["probability_no", "probability_yes"]], own(run), atol=1e-6, rtol=0)
        assert scores["id"].tolist() == held["id"].tolist()

    def test_whatever_brings_the_rows(self, run, held, tmp_path):
        model = mbjax.load(run)
        reordered = held[held.columns[::-1]].astype({"town": "category"})
        as_parquet = tmp_path / "held.parquet"
        held.to_parquet(as_parquet)
        features = [name for name in held if name not in ("id", "ill")]
        inputs = (
            held,
            reordered,
            pl.from_pandas(held),
            run.parent / "held.csv",
            str(as_parquet),
            held[features].to_numpy(),
        )
        for X in inputs:
            np.testing.assert_allclose(model.predict_proba(X, priors="raw"), own(run), atol=1e-6, rtol=0)
        row_by_row = [model.predict_proba(held.iloc[[k]], priors="raw")[0] for k in range(len(held))]
        np.testing.assert_allclose(row_by_row, own(run), atol=1e-6, rtol=0)

    def test_result_says_what_was_chosen_and_scored(self, run, held):
        result, model = json.loads((run / "result.json").read_text()), mbjax.load(run)
        y = (held["ill"] == "yes").to_numpy()
        p, decision = model.predict_proba(held), result["decision"]
        assert decision["rule"] == "threshold"
        assert decision["metric"] == "balanced_accuracy"
        assert (
            decision["validation_rows"]
            == result["calibration"]["validation_rows"]
            == sum(result["data"]["class_counts"]["validation"])
        )
        decided = p[:, 1] >= decision["threshold"]
        assert np.array_equal(model.predict(held) == "yes", decided)
        assert decision["test"]["recall"] == pytest.approx(decided[y].mean())
        assert decision["test"]["balanced_accuracy"] == pytest.approx((decided[y].mean() + (~decided[~y]).mean()) / 2)
        log_loss = -np.log(np.where(y, p[:, 1], p[:, 0])).mean()
        assert result["calibration"]["test"]["log_loss"] == pytest.approx(log_loss, rel=1e-5)
        counts = result["data"]["class_counts"]["train"]
        np.testing.assert_allclose(result["calibration"]["priors"], np.array(counts) / sum(counts))
        assert result["calibration"]["sampled_priors"] == pytest.approx([0.5, 0.5], abs=0.01)

    def test_scores_are_of_the_network_itself_as_before(self, run):
        result, p = json.loads((run / "result.json").read_text()), own(run)
        labels = np.load(run / "predictions.npz")["labels"]
        log_loss = -np.log(p[np.arange(len(p)), labels]).mean()
        assert result["test"]["log_loss"] == pytest.approx(log_loss, rel=1e-5)

    def test_a_finished_run_of_before_an_option_was_there_is_the_same_run(self, run, tmp_path):
        shutil.copytree(run, tmp_path / "run")
        file = tmp_path / "run" / "config.json"
        settings = json.loads(file.read_text())
        del settings["decision"]["beta"], settings["checksum"]
        for key in ("csv", "columns", "group", "time"):
            del settings["data"][key]
        file.write_text(json.dumps(settings))
        assert train.train_and_evaluate(config_of(run.parent), tmp_path / "run")["updates"] == 20


class TestColumns:
    def test_numbers_are_filled_and_scaled_and_categories_have_a_place_each(self):
        frame = pd.DataFrame({"a": [1.0, 2, 6, np.nan], "c": ["x", "y", "y", None]})
        columns = TableColumns.fit(frame, numbers=["a"], categories=["c"])
        filled = np.array([1, 2, 6, 2.0])  # by the median
        expected = np.c_[(filled - filled.mean()) / filled.std(), [1, 0, 0, 0], [0, 1, 1, 1]]
        np.testing.assert_allclose(columns.transform(frame), expected, rtol=1e-6)
        new = pd.DataFrame({"c": ["z", None], "a": ["", "6"]})
        unseen = np.c_[expected[[3, 2], 0], [0, 0], [0, 1]]
        np.testing.assert_allclose(columns.transform(new), unseen, rtol=1e-6)

    def test_rarest_of_many_categories_share_a_place(self):
        values = [f"v{k:03}" for k in range(120) for _ in range(3 if k < 99 else 1)]
        frame = pd.DataFrame({"c": values})
        columns = TableColumns.fit(frame, numbers=[], categories=["c"])
        x = columns.transform(frame)
        assert x.shape[1] == 100
        assert np.array_equal(x[:297].argmax(1), np.arange(99).repeat(3))
        assert (x[297:].argmax(1) == 99).all()
        assert not columns.transform(pd.DataFrame({"c": ["new"] * 100})).any()

    @pytest.mark.parametrize("rows", [3, 200])
    def test_bools_as_a_csv_file_spells_them(self, rows):
        columns = TableColumns.fit(pd.DataFrame({"m": [True, False, True]}), numbers=[], categories=["m"])
        spelled = pd.DataFrame({"m": ["true", "FALSE", None] * rows})
        assert np.array_equal(columns.transform(spelled), [[0, 1], [1, 0], [0, 1]] * rows)
        mixed = pd.DataFrame({"m": pd.array([True, False, None] * rows, "boolean")})
        assert np.array_equal(columns.transform(mixed), [[0, 1], [1, 0], [0, 1]] * rows)

    def test_the_same_by_way_of_json(self):
        frame = people()
        columns = TableColumns.fit(frame.drop(columns=["income"]), numbers=["age"], categories=["town", "member"])
        again = TableColumns.from_dict(json.loads(json.dumps(columns.to_dict())))
        assert again == columns
        assert np.array_equal(again.transform(frame), columns.transform(frame))

    def test_a_table_with_blank_numbers_is_read_as_numbers(self):
        dataset = tabular.from_frame(people(), "ill", source="people", seed=0)
        assert "column 'income': numbers, some of them left blank" in dataset.notes
        assert "income" in [number.name for number in dataset.preprocessing.numbers]


class TestInputs:
    """Each gets one clear line, or what the documentation says."""

    good = pd.DataFrame({"a": [1.0, 2], "b": [3, 4], "c": ["x", "z"]})

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (good.drop(columns=["b"]), "the table has no column 'b', which the model was trained on; it has 'a', 'c'"),
            (
                good.assign(b=["3", "many"]),
                "the table: column 'b' holds 'many' in data row 2 where training had numbers",
            ),
            (good.assign(b=pd.to_datetime(["2020", "2021"])), "the table: column 'b' holds datetime64"),
            (good.assign(a=[1, np.inf]), "the table: column 'a' has 1 infinite values, the first in data row 2"),
            (np.zeros((2, 5)), r"the array has the shape \[2, 5\]: \[rows, 3\] is needed.*'a', 'b', 'c'"),
            (["cat.png"], "cat.png: this model takes tables and no images"),
            ("nowhere.csv", "nowhere.csv: there is no such file or folder"),
        ],
    )
    def test_errors(self, frame, message):
        with pytest.raises(UserError, match=message):
            small().predict_proba(frame)

    def test_a_column_twice(self):
        twice = pd.concat([self.good, self.good[["a"]]], axis="columns")
        with pytest.raises(UserError, match="column 'a' more than once"):
            small().predict_proba(twice)

    def test_order_does_not_matter_and_extra_columns_are_ignored_with_a_warning(self):
        model = small()
        expected = model.predict_proba(self.good)
        assert np.array_equal(model.predict_proba(self.good[["c", "a", "b"]]), expected)
        with pytest.warns(UserWarning, match="column 'new' ignored"):
            assert np.array_equal(model.predict_proba(self.good.assign(new=1)), expected)
        with warnings.catch_warnings(action="error"):  # the target is no surprise
            assert np.array_equal(model.predict_proba(self.good.assign(t=1)), expected)

    def test_missing_values_and_unseen_categories(self):
        model = small()
        empty = pd.DataFrame({"a": [None, None], "b": [np.nan, np.nan], "c": [None, "new"]})
        filled = pd.DataFrame({"a": [2.0, 2], "b": [15, 15], "c": ["y", "new"]})
        assert np.array_equal(model.predict_proba(empty), model.predict_proba(filled))
        zeros = np.zeros((1, 5), np.float32)
        zeros[:, :2] = model.preprocessing.transform(filled)[1, :2]
        assert model.logits(model.preprocessing.transform(filled)[1:]) == model.logits(zeros)

    def test_no_rows(self, tmp_path):
        model = small()
        assert model.predict_proba(self.good[:0]).shape == (0, 2)
        assert model.predict(self.good[:0]).shape == (0,)
        self.good[:0].to_csv(tmp_path / "none.csv", index=False)
        self.good[:0].to_parquet(tmp_path / "none.parquet")
        for name in ("none.csv", "none.parquet"):
            assert model.predict_proba(tmp_path / name).shape == (0, 2)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.csv", b"", "empty.csv is empty: a line of column names is needed"),
            ("torn.parquet", b"PAR1abc", "torn.parquet cannot be read as a table"),
            ("ragged.csv", b"a,b,c\n1,2,x\n1,2,3,4,5\n", "ragged.csv cannot be read as a table"),
            ("what.txt", b"a", r"a file that ends in \.csv, \.tsv, \.csv\.gz, .* is needed"),
        ],
    )
    def test_files_that_cannot_be_read(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            small().predict_proba(tmp_path / name)

    def test_long_files_are_the_same_in_chunks_and_errors_count_all_rows(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mbjax.predict.inputs.ROWS", 7)
        frame = pd.DataFrame({"a": np.arange(40.0), "b": 1, "c": ["x"] * 20 + ["7"] * 20})
        frame.to_csv(tmp_path / "long.csv", index=False)
        expected = small().predict_proba(frame)
        np.testing.assert_allclose(small().predict_proba(tmp_path / "long.csv"), expected, atol=1e-6)
        frame.astype({"b": object}).assign(b=[1] * 33 + ["one"] * 7).to_csv(tmp_path / "long.csv", index=False)
        with pytest.raises(UserError, match=r"long.csv: column 'b' holds 'one' in data row 34"):
            small().predict_proba(tmp_path / "long.csv")

    def test_blanks_among_the_numbers_of_a_long_file(self, tmp_path):
        a = ["1.5"] * 200_000 + [" "] + ["2.5"] * 3
        (tmp_path / "long.csv").write_text("a,b,c\n" + "".join(f"{value},3,x\n" for value in a))
        with warnings.catch_warnings(action="ignore", category=pd.errors.DtypeWarning):  # as the module has it
            p = small().predict_proba(tmp_path / "long.csv")
        few = pd.DataFrame({"a": [1.5, np.nan, 2.5], "b": 3, "c": "x"})
        np.testing.assert_array_equal(p[[0, 199_999, 200_000, 200_003]], small().predict_proba(few)[[0, 0, 1, 2]])

    def test_a_csv_file_is_written_as_it_was_spelled(self, tmp_path):
        text = 'a,b,c,member,note\n1.5,3,x,True,"so, ""so"""\n,4,7,False,\n2.0,5,x,True,é\n'
        (tmp_path / "rows.csv").write_text(text)
        with pytest.warns(UserWarning, match="'member', 'note' ignored"):
            write_scores(small(), tmp_path / "rows.csv", tmp_path / "scores.csv")
        spelled: Any = pd.read_csv(tmp_path / "scores.csv", dtype=str, keep_default_na=False)
        expected = pd.read_csv(tmp_path / "rows.csv", dtype=str, keep_default_na=False).replace("2.0", "2")
        pd.testing.assert_frame_equal(spelled[list(expected)], expected)
        p = small().predict_proba(pd.read_csv(tmp_path / "rows.csv")[["a", "b", "c"]])
        assert np.array_equal(spelled[["probability_no", "probability_yes"]].astype(float), p)

    def test_a_column_of_mixed_types_is_written_to_csv(self, tmp_path):
        mixed = pd.DataFrame({"a": [1.0, 2], "b": [3, 4], "c": ["x", "z"], "t": [1, "one"]})
        assert write_scores(small(), mixed, tmp_path / "scores.csv") == 2
        assert pd.read_csv(tmp_path / "scores.csv")["t"].tolist() == ["1", "one"]


class TestImages:
    def model(self) -> Predictor:
        return of_network({"name": "cnn", "channels": (2,)}, Arrays((8, 8, 3), "uint8"), 8, 8, 3, outputs=3)

    def draw(self, folder: pathlib.Path) -> np.ndarray:
        x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
        for number, image in enumerate(x):
            Image.fromarray(image).save(folder / f"{number}.png")
        return x

    def test_files_a_folder_and_arrays(self, tmp_path):
        x, model = self.draw(tmp_path), self.model()
        names = sorted(map(str, tmp_path.glob("*.png")))
        expected = model.predict_proba(x)
        assert np.ptp(expected, axis=0).min() > 0
        for X in (names, tmp_path, [pathlib.Path(name) for name in names]):
            np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
        np.testing.assert_allclose(model.predict_proba(names[1]), expected[[1]], atol=1e-6)

    def test_another_size_and_mode(self, tmp_path):
        gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
        Image.fromarray(gray).save(tmp_path / "gray.png")
        Image.fromarray(gray.repeat(2, 0).repeat(2, 1)).save(tmp_path / "large.png")
        p = self.model().predict_proba(tmp_path)
        np.testing.assert_allclose(p[0], self.model().predict_proba(np.stack([gray] * 3, -1)[None])[0], atol=1e-6)
        np.testing.assert_allclose(p[1], p[0], atol=0.05)  # resized to the same picture

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.zeros((2, 9, 8, 3), np.uint8), r"shape \[2, 9, 8, 3\]: the model takes \[n, 8, 8, 3\], or image files"),
            (np.zeros((2, 8, 8), np.uint8), r"shape \[2, 8, 8\]"),
            (np.zeros((2, 8, 8, 3)), "is float64: the model was trained on images of uint8, from 0 to 255"),
            (["none.png"], "none.png: no such file"),
        ],
    )
    def test_errors(self, x, message):
        with pytest.raises(UserError, match=message):
            self.model().predict_proba(x)

    def test_a_file_that_is_no_image(self, tmp_path):
        (tmp_path / "a.png").write_text("no")
        with pytest.raises(UserError, match=r"a.png is no readable image"):
            self.model().predict_proba(tmp_path)

    def test_the_command_writes_names_and_probabilities(self, tmp_path):
        x = self.draw(tmp_path)
        self.model().save(tmp_path / "model")
        main([str(tmp_path / "model"), str(tmp_path), f"--out={tmp_path / 'out.csv'}"])
        scores = pd.read_csv(tmp_path / "out.csv")
        assert [pathlib.Path(name).name for name in scores["file"]] == ["0.png", "1.png", "2.png"]
        expected = self.model().predict_proba(x)
        np.testing.assert_allclose(scores.iloc[:, 1:4], expected, atol=1e-6)
        assert scores["decision"].tolist() == [list("abc")[number] for number in expected.argmax(1)]

    def test_floats_that_are_not_finite(self):
        model = of_network({"name": "mlp"}, Arrays((3,), "float32"), 3)
        with pytest.raises(UserError, match="1 rows have values that are missing or not finite, the first is row 2"):
            model.predict_proba(np.array([[0, 1, 2], [0, np.nan, 2]]))


class TestPriorsAndDecisions:
    frame = pd.DataFrame({"a": np.linspace(-3, 9, 50), "b": np.linspace(50, -20, 50), "c": ["x", "y"] * 25})

    def test_priors_are_divided_out_and_the_given_ones_put_in(self):
        model = small(priors=np.array([0.9, 0.1]), sampled_priors=np.array([0.5, 0.5]))
        raw = model.predict_proba(self.frame, priors="raw")
        odds = lambda p: p[:, 1] / p[:, 0]  # noqa: E731
        np.testing.assert_allclose(odds(model.predict_proba(self.frame)), odds(raw) * 0.1 / 0.9)
        for priors in ({"yes": 0.001}, {"no": 0.999, "yes": 0.001}, [0.999, 0.001]):
            np.testing.assert_allclose(odds(model.predict_proba(self.frame, priors)), odds(raw) * 0.001 / 0.999)

    def test_the_temperature_divides_the_logits_before_the_priors_change(self):
        model = small(priors=np.array([0.9, 0.1]), sampled_priors=np.array([0.5, 0.5]), temperature=2.0)
        z = model.logits(model.preprocessing.transform(self.frame)).astype(float)[:, 0]
        expected = 1 / (1 + np.exp(-(z / 2 + np.log(0.1 / 0.9))))
        np.testing.assert_allclose(model.predict_proba(self.frame)[:, 1], expected)

    @pytest.mark.parametrize(
        "decision",
        [Decision(), Decision("threshold", threshold=0.3), Decision("costs", costs=((0.0, 1.0), (3.0, 0.5)))],
    )
    def test_decision_function_is_above_0_where_class_1_is_decided(self, decision):
        model = small(decision=decision)
        chosen = model.predict(self.frame) == "yes"
        assert 0 < chosen.sum() < len(chosen)
        assert np.array_equal(model.decision_function(self.frame) > 0, chosen)

    @pytest.mark.parametrize(
        ("priors", "message"),
        [
            ("balanced", "priors='balanced': \"raw\", a mapping, an array, or None"),
            ({"maybe": 0.1}, "there is no class 'maybe' among no, yes"),
            ([0.5, 0.2], "shares from 0 to 1 whose sum is 1"),
            ([0.5, 0.3, 0.2], r"\[3\] numbers for the 2 classes"),
        ],
    )
    def test_priors_that_are_none(self, priors, message):
        with pytest.raises(UserError, match=message):
            small().predict_proba(self.frame, priors)

    def test_three_classes_have_no_decision_function(self):
        model = of_network({"name": "mlp"}, Arrays((3,), "float32"), 3, outputs=3)
        with pytest.raises(UserError, match="for two classes, and this model has 3"):
            model.decision_function(np.zeros((1, 3)))


class TestFiles:
    frame = TestPriorsAndDecisions.frame

    @pytest.fixture
    def folder(self, tmp_path) -> pathlib.Path:
        small(decision=Decision("threshold", threshold=0.25), temperature=1.5).save(tmp_path / "model")
        return tmp_path / "model"

    def test_what_is_saved_is_loaded(self, folder):
        model = small(decision=Decision("threshold", threshold=0.25), temperature=1.5)
        again = mbjax.load(folder)
        assert np.array_equal(again.predict_proba(self.frame), model.predict_proba(self.frame))
        assert np.array_equal(again.predict(self.frame), model.predict(self.frame))
        with pytest.raises(UserError, match="is there already"):
            again.save(folder)

    def test_pickles(self):
        model = small()
        expected = model.predict_proba(self.frame)  # fills what is cached
        assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(self.frame), expected)

    def test_a_truncated_file(self, folder):
        weights = folder / files.WEIGHTS
        weights.write_bytes(weights.read_bytes()[:-10])
        with pytest.raises(UserError, match=r"weights.safetensors is cut off: it has \d+ of \d+ bytes"):
            mbjax.load(folder)
        about = folder / files.ABOUT
        about.write_text(about.read_text()[:300])
        with pytest.raises(UserError, match=r"model.json is cut off or damaged"):
            mbjax.load(folder)

    def test_a_newer_format(self, folder):
        about = json.loads((folder / files.ABOUT).read_text())
        (folder / files.ABOUT).write_text(json.dumps({**about, "format": files.FORMAT + 1, "mbjax": "9.0"}))
        with pytest.raises(UserError, match=r"of format 4, written by mbjax 9.0; this mbjax .* reads formats up to 3"):
            mbjax.load(folder)

    def test_files_that_do_not_belong_together(self, folder, tmp_path):
        other = small()
        other.variables["params"]["Dense_0"]["kernel"] = other.variables["params"]["Dense_0"]["kernel"] + 1
        other.save(tmp_path / "other")
        shutil.copy(tmp_path / "other" / files.WEIGHTS, folder)
        with pytest.raises(UserError, match=r"model.json and weights.safetensors do not belong together"):
            mbjax.load(folder)

    def test_a_changed_file(self, folder):
        text = (folder / files.ABOUT).read_text()
        (folder / files.ABOUT).write_text(text.replace('"temperature": 1.5', '"temperature": 2.5'))
        with pytest.raises(UserError, match=r"model.json was changed since it was written"):
            mbjax.load(folder)

    def test_a_lost_file(self, folder):
        (folder / files.WEIGHTS).unlink()
        with pytest.raises(UserError, match=r"weights.safetensors cannot be read .*: copy the whole folder"):
            mbjax.load(folder)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "has no model: name a finished run's folder"),
            ({"config.json": "{}"}, "has no model: its run is not finished"),
            ({"config.json": "{}", "result.json": '{"data": {"groups": ["a", "b"]}}'}, "identifies people"),
            ({"config.json": "{}", "result.json": '{"data": {}}'}, "was finished before mbjax kept models"),
        ],
    )
    def test_a_folder_without_a_model(self, tmp_path, files, message):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            mbjax.load(tmp_path)


class TestCommand:
    def test_errors_are_one_line(self, tmp_path, capsys):
        small().save(tmp_path / "model")
        TestPriorsAndDecisions.frame.drop(columns=["b"]).to_csv(tmp_path / "x.csv", index=False)
        with pytest.raises(SystemExit) as left:
            main([str(tmp_path / "model"), str(tmp_path / "x.csv"), f"--out={tmp_path / 'out.csv'}"])
        assert left.value.code == 2
        assert capsys.readouterr().err.startswith("mbjax: error: x.csv has no column 'b'")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.csv"]

    def test_csv_and_parquet_agree_and_the_rows_stay(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("mbjax.predict.inputs.ROWS", 8)
        small().save(tmp_path / "model")
        frame = TestPriorsAndDecisions.frame.assign(extra=[f"{k:03}x" for k in range(50)])
        frame.to_csv(tmp_path / "x.csv", index=False)
        for out in ("out.csv", "out.parquet"):
            main(
                [str(tmp_path / "model"), str(tmp_path / "x.csv"), f"--out={tmp_path / out}", "--priors={'yes': 0.01}"]
            )
        assert "mbjax: warning: x.csv: column 'extra' ignored" in capsys.readouterr().err
        scores = pd.read_csv(tmp_path / "out.csv")
        pd.testing.assert_frame_equal(scores, pd.read_parquet(tmp_path / "out.parquet"), check_dtype=False)
        pd.testing.assert_frame_equal(scores.loc[:, list(frame)], frame, check_dtype=False)
        expected = small().predict_proba(frame[["a", "b", "c"]], {"yes": 0.01})
        np.testing.assert_allclose(scores[["probability_no", "probability_yes"]], expected, atol=1e-6)


REAL_TABLES: dict[str, dict[str, Any]] = {
    "stroke.csv": {"target": "stroke", "drop": ("id",)},
    "telco_churn.csv": {"target": "Churn", "drop": ("customerID",)},
    "ai4i2020.csv": {
        "target": "Machine failure", "drop": ("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"),
    },
}  # fmt: skip


@pytest.mark.skipif("MBJAX_DATA_DIR" not in os.environ, reason="no $MBJAX_DATA_DIR")
@pytest.mark.parametrize("name", REAL_TABLES)
def test_held_back_rows_of_real_tables_become_the_features_of_the_run(name, tmp_path):
    dataset = data.load("tabular", seed=1, path=name, **REAL_TABLES[name])
    frame = tabular.read_table(sources.find(name))
    y, _, _ = splits.encode_labels(frame.loc[:, REAL_TABLES[name]["target"]])
    frame.iloc[splits.split_indices(y, seed=1)["test"]].to_csv(tmp_path / "held.csv", index=False)
    columns = TableColumns.from_dict(json.loads(json.dumps(dataset.preprocessing.to_dict())))
    with warnings.catch_warnings(action="error"):  # what was left out by name is no surprise
        chunks = [x for _, x in tables.read(tmp_path / "held.csv", columns, rows=333)]
    assert np.array_equal(np.concatenate(chunks), dataset.test.x)
    if name == "telco_churn.csv":  # blanks for numbers
        assert "TotalCharges" in [number.name for number in columns.numbers]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_out_of_core_keeps_what_makes_its_features(tmp_path, ending):
    frame = people(3000).assign(town=lambda f: np.where(f.index < 20, "Rare", f["town"]))
    frame["income"] = pd.to_numeric(frame["income"], errors="coerce")
    file = tmp_path / f"people.{ending}"
    frame.to_csv(file, index=False) if ending == "csv" else frame.to_parquet(file)
    options = {"path": str(file), "target": "ill", "drop": ("id",), "prepared": str(tmp_path / "arrays")}
    dataset = data.load("table", seed=0, test_share=0.3, **options)
    columns = TableColumns.from_dict(json.loads(json.dumps(dataset.preprocessing.to_dict())))
    x = np.concatenate([x for _, x in tables.read(file, columns, rows=700)])
    both = np.concatenate([dataset.train.x[:], dataset.test.x[:]])
    assert len(both) == len(x) == 3000
    order = lambda a: a[np.lexsort(a.T)]  # noqa: E731 - the split is by blocks
    assert np.array_equal(order(both), order(x))


def test_arrays_out_of_core_are_scaled_alike(tmp_path):
    raw = np.random.default_rng(0).normal(5, 3, (600, 3)).astype(np.float32)
    raw[::7, 1] = np.nan
    np.save(tmp_path / "x.npy", raw)
    np.save(tmp_path / "y.npy", np.arange(600) % 2)
    dataset = data.load("table", seed=0, path=str(tmp_path), test_share=0.4)
    columns = dataset.preprocessing
    model = of_network({"name": "mlp", "hidden": (4,)}, columns, 3)
    (_, x), *_ = inputs.chunks(tmp_path / "x.npy", columns)
    order = lambda a: a[np.lexsort(a.T)]  # noqa: E731
    assert np.array_equal(order(x), order(np.concatenate([dataset.train.x[:], dataset.test.x[:]])))
    assert model.predict_proba(tmp_path / "x.npy").shape == (600, 2)


class TestReleasedFormats:
    """A model that format 1 wrote, with what it gave then; the files stay as they are."""

    @pytest.mark.parametrize("name", ["table_1"])
    def test_still_load_and_give_the_same(self, name):
        model = mbjax.load(FIXTURES / name)
        rows = pd.read_csv(FIXTURES / name / "rows.csv")
        X = rows[["age", "income", "town", "member"]]
        np.testing.assert_allclose(model.predict_proba(X)[:, 1], rows["probability_yes"], atol=1e-6)
        np.testing.assert_allclose(model.predict_proba(X, priors="raw")[:, 1], rows["raw_yes"], atol=1e-6)
        assert model.predict(X).tolist() == rows["decision"].tolist()
