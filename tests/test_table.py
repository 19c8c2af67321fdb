"""Tables larger than memory: what is read, the split, statistics, Parquet and CSV, whole runs, errors of one line."""

import datetime
import decimal
import json
import os
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from configs import table as table_config
from mbjax import config as config_lib
from mbjax import data, train
from mbjax.data.tables import table, table_reader
from mbjax.train import checkpoint, loop, updates
from mbjax.types import Dataset, UserError

N = 6000


def values(rows: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which `x[:, 0]` tells the label a little, and labels of which one in twenty is 1."""
    rng = np.random.default_rng(seed)
    y = (rng.random(rows) < 0.05).astype(np.int64)
    x = rng.normal(3, 2, (rows, 4)) * [1, 10, 0.1, 1]
    x[:, 0] += 3 * y
    return x.astype(np.float32), y


def write_arrays(folder: Path, x: np.ndarray, y: np.ndarray, **about: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    if about:
        (folder / "columns.json").write_text(json.dumps(about))
    return folder


def load(path: Path | str, seed: int = 0, **options: Any) -> Dataset:
    return data.load("table", seed=seed, path=str(path), **options)


def file_rows(split: Any, rows: int = N) -> np.ndarray:
    """The rows of the file that a split has, in its order."""
    blocks = split.x._blocks
    return np.concatenate([np.arange(b * 256, min(b * 256 + 256, rows)) for b in blocks])


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "arrays", *values())


class TestSplit:
    def test_parts_are_blocks_that_share_all_rows(self, arrays):
        dataset = load(arrays, validation_share=0.25)
        rows = [file_rows(split) for split in dataset.splits.values()]
        assert list(dataset.splits) == ["train", "validation", "test"]
        assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(N))
        assert [len(r) for r in rows] == [len(split) for split in dataset.splits.values()]
        assert sorted(len(split.x._blocks) for split in dataset.splits.values()) == [5, 5, 14]  # of 24
        for split, r in zip(dataset.splits.values(), rows, strict=True):
            assert split.x.shape == (len(split), 4)
            assert np.array_equal(split.y, values()[1][r])

    def test_seed_decides_and_validation_leaves_the_test_part_alone(self, arrays):
        test = load(arrays).test.x
        assert np.array_equal(test._blocks, load(arrays, validation_share=0.3).test.x._blocks)
        assert not np.array_equal(test._blocks, load(arrays, seed=1).test.x._blocks)
        assert test.digest != load(arrays, seed=1).test.x.digest

    def test_of_a_long_table_a_sample_is_scored(self, tmp_path, monkeypatch):
        monkeypatch.setattr(table, "_SCORED", 1024)
        x, y = values()
        y[:] = 0
        y[np.arange(0, N, 256) + 3] = 1  # one a block
        parts = load(write_arrays(tmp_path / "a", x, y), test_share=0.1).splits
        for split, block in ((parts["test"], 0), (parts["train"], 2)):  # so rare that the sample misses it
            y[file_rows(split)[block * 256]] = 2
        dataset = load(write_arrays(tmp_path / "a", x, y, classes=["a", "b", "c"]), test_share=0.1)
        few = dataset.scored["train"]
        assert len(dataset.train) > 5000
        assert len(few.x._blocks) == 4 + 1  # the one that has class c
        assert set(few.y) == {0, 1, 2}
        assert np.array_equal(few.y, y[file_rows(few)])
        assert set(file_rows(few)) <= set(file_rows(dataset.train))
        np.testing.assert_array_equal(
            few.x[:], dataset.train.x[np.isin(file_rows(dataset.train), file_rows(few)).nonzero()[0]]
        )
        assert any("1," in note and "are scored" in note for note in dataset.notes)

    def test_the_test_part_of_a_long_table_is_bounded_unless_a_share_is_given(self, arrays, monkeypatch):
        monkeypatch.setattr(table, "_SCORED", 512)
        assert len(load(arrays).test.x._blocks) == 2
        assert len(load(arrays, test_share=0.5).test.x._blocks) == 12


class TestValues:
    def test_scaled_over_the_training_part_and_missing_ones_filled_in(self, tmp_path):
        x, y = values()
        x[::7, 1] = np.nan
        x[:3000, 2] = np.nan  # of a column that begins empty
        x[:, 3] = x[:, 3] > 3
        x[5::9, 3] = np.nan
        folder = write_arrays(tmp_path / "a", x, y, names=["a", "b", "c", "d"], plain=["d"])
        dataset = load(folder)
        known = pd.DataFrame(x[file_rows(dataset.train)].astype(np.float64))
        for split in dataset.splits.values():
            raw = pd.DataFrame(x[file_rows(split)].astype(np.float64))
            wanted = (raw - known.mean()) / known.std(ddof=0)
            wanted = wanted.fillna(0)
            wanted[3] = raw[3].fillna(known[3].mean())
            np.testing.assert_allclose(split.x[:], wanted, rtol=1e-5, atol=1e-5)
        assert (
            f"column 'b': {int(np.isnan(x[:, 1]).sum())} missing values are the training part's mean" in dataset.notes
        )
        assert (folder / "columns.json").exists()

    def test_columns_that_are_constant_or_empty_are_zero(self, tmp_path):
        x, y = values()
        x[:, 1], x[:, 2] = 0.1, np.nan
        dataset = load(write_arrays(tmp_path / "a", x, y))
        np.testing.assert_allclose(dataset.test.x[:][:, [1, 2]], 0, atol=1e-6)
        assert "column 'x2': no value in the training part, 0 everywhere" in dataset.notes

    def test_columns_that_are_empty_or_zero_in_training_alone_are_zero(self, tmp_path):
        x, y = values()
        dataset = load(write_arrays(tmp_path / "a", x, y))
        trained = np.isin(np.arange(N), file_rows(dataset.train))
        x[trained, 1:3] = np.nan
        x[trained, 3] = 0
        for plain in ([], ["x1", "x3"]):
            dataset = load(write_arrays(tmp_path / "a", x, y, plain=plain))
            np.testing.assert_array_equal(dataset.test.x[:][:, 1:3], 0)
            assert "column 'x2': no value in the training part, 0 everywhere" in dataset.notes
            # Of a number that is constant in training, 0 is a value as any other: only its scale is unknown.
            np.testing.assert_array_equal(dataset.test.x[:][:, 3], 0 if plain else x[file_rows(dataset.test), 3])

    def test_means_do_not_depend_on_the_size_of_what_is_read_at_a_time(self, arrays, monkeypatch):
        whole = load(arrays).test.x[:]
        for file in arrays.glob("scaling-*"):
            file.unlink()
        monkeypatch.setattr(table, "_CHUNK_BYTES", 1)  # a block at a time
        np.testing.assert_allclose(load(arrays).test.x[:], whole, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("kept_mb", [0, 256])
    def test_rows_of_any_order_and_shape(self, arrays, kept_mb, monkeypatch):
        train_x = load(arrays, kept_mb=kept_mb).train.x
        whole = train_x[:]
        assert (len(train_x._kept_x) > 0) == (kept_mb > 0)
        rng = np.random.default_rng(0)
        for shape in ((3000,), (2, 3, 50), (1,), (0, 4), ()):
            rows = rng.integers(0, len(train_x), shape)
            np.testing.assert_array_equal(train_x[rows], whole[rows])
        np.testing.assert_array_equal(train_x[10:900:3], whole[10:900:3])
        monkeypatch.setattr(table_reader, "_ROOM_BYTES", 3 * 256 * 4 * 4)  # three blocks
        train_x = load(arrays, kept_mb=kept_mb).train.x
        for rows in (
            rng.permutation(len(train_x))[:1000],
            *rng.integers(0, 1200, (20, 2)),
            *rng.integers(0, 600, (20, 9)),
        ):
            np.testing.assert_array_equal(train_x[rows], whole[rows])
        for bad in (-1, len(train_x)):
            with pytest.raises(IndexError):
                train_x[np.array([0, bad])]

    def test_rare_rows_are_kept_and_read_as_the_others(self, arrays):
        dataset = load(arrays)
        rare = np.flatnonzero(dataset.train.y == 1)
        assert len(dataset.train.x._kept_x) == len(rare)
        np.testing.assert_array_equal(dataset.train.x[rare], load(arrays, kept_mb=0).train.x[rare])

    def test_threads_read_at_the_same_time(self, arrays):
        x = load(arrays).train.x
        whole, wrong = x[:], []

        def read(seed: int) -> None:
            for rows in np.random.default_rng(seed).integers(0, len(x), (50, 500)):
                wrong.extend([seed] * (not np.array_equal(x[rows], whole[rows])))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not wrong

    def test_wide_tables_have_smaller_blocks(self, tmp_path):
        x, y = values(600)
        wide = np.tile(x, (1, 500))  # 8,000 bytes a row
        dataset = load(write_arrays(tmp_path / "a", wide, y))
        assert dataset.train.x.block == 16
        raw = wide[np.concatenate([np.arange(b * 16, min(b * 16 + 16, 600)) for b in dataset.test.x._blocks])]
        assert np.corrcoef(raw[:, 1999], dataset.test.x[:][:, 1999])[0, 1] > 0.9999

    def test_statistics_are_kept_until_the_table_changes(self, arrays, monkeypatch):
        first = load(arrays)
        monkeypatch.setattr(table, "_fit", lambda *_: pytest.fail("went through the table again"))
        again = load(arrays)
        np.testing.assert_array_equal(again.test.x[:], first.test.x[:])
        assert again.train.x.digest == first.train.x.digest
        monkeypatch.undo()
        x, y = values(seed=1)
        write_arrays(arrays, x, y)
        os.utime(arrays / "x.npy", (1, 1))
        other = load(arrays)
        assert other.train.x.digest != first.train.x.digest
        assert abs(float(other.train.x[:].mean())) < 1e-3

    def test_damaged_statistics_are_computed_again(self, arrays, caplog):
        first = load(arrays)
        next(arrays.glob("scaling-*")).write_bytes(b"PK")
        np.testing.assert_array_equal(load(arrays).test.x[:], first.test.x[:])
        assert "is damaged and is made again" in caplog.text


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "about", "classes", "numbers"),
        [
            ([3, 7], {}, ("3", "7"), [0, 1]),
            ([7, 3], {}, ("7", "3"), [0, 1]),  # the rarer is number 1
            ([False, True], {}, ("False", "True"), [0, 1]),
            ([0, 1], {"classes": ["fine", "fraud"]}, ("fine", "fraud"), [0, 1]),
            ([1, 0], {"classes": ["fine", "fraud"]}, ("fine", "fraud"), [1, 0]),  # names say which is which
        ],
    )
    def test_class_numbers(self, tmp_path, labels, about, classes, numbers):
        x, y = values()
        dataset = load(write_arrays(tmp_path / "a", x, np.array(labels)[y], **about))
        assert dataset.classes == classes
        assert dataset.train.y.dtype == np.uint8
        assert dataset.test.y.dtype == np.int32
        for split in dataset.splits.values():
            assert np.array_equal(split.y, np.array(numbers)[y[file_rows(split)]])
        assert data.describe(dataset)["class_counts"]["test"] == np.bincount(dataset.test.y).tolist()

    def test_hundreds_of_classes(self, tmp_path):
        y = np.tile(np.arange(300), 20)
        dataset = load(write_arrays(tmp_path / "a", values()[0], y * 10))
        assert dataset.train.y.dtype == np.uint16
        assert dataset.classes[299] == "2990"
        assert np.array_equal(dataset.train.y, y[file_rows(dataset.train)])


def frame(rows: int = N) -> pd.DataFrame:
    x, y = values(rows)
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "amount": x[:, 0].astype(np.float64),
            "count": np.arange(rows) % 17,
            "color": rng.choice(["red", "green", "blue"], rows),
            "weekend": rng.random(rows) < 0.3,
            "row": [f"r{k}" for k in range(rows)],
            "label": np.where(y, "fraud", "fine"),
        }
    )


class TestFiles:
    def prepared(self, path: Path, tmp_path: Path, **options: Any) -> Dataset:
        return load(path, target="label", prepared=str(tmp_path / "prepared"), **options)

    @pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz", "folder"])
    def test_values_are_those_of_pandas(self, tmp_path, form):
        table_of = frame()
        table_of.loc[::5, "amount"] = np.nan
        table_of.loc[::11, "color"] = None
        path = tmp_path / f"table.{form}"
        if form == "folder":
            path.mkdir()
            (path / "sub").mkdir()
            for k, name in enumerate(["a", "b", "sub/c"]):
                table_of[2000 * k : 2000 * (k + 1)].to_parquet(path / f"{name}.parquet")
        elif form == "parquet":
            table_of.to_parquet(path, row_group_size=700)
        else:
            table_of.to_csv(path, index=False)
        dataset = self.prepared(path, tmp_path)
        names = json.loads((tmp_path / "prepared" / "columns.json").read_text())["names"]
        assert names == ["amount", "count", "weekend", "color=blue", "color=green", "color=red"]
        assert dataset.classes == ("fine", "fraud")
        wanted = table_of[["amount", "count", "weekend"]].astype(np.float64)
        wanted = wanted.join(pd.get_dummies(table_of["color"], dtype=float))
        known = wanted.iloc[file_rows(dataset.train)]
        for column in ("amount", "count"):
            wanted[column] = (wanted[column] - known[column].mean()) / known[column].std(ddof=0)
        for split in dataset.splits.values():
            rows = file_rows(split)
            np.testing.assert_allclose(split.x[:], wanted.iloc[rows].fillna(0), rtol=1e-4, atol=1e-4)
            assert np.array_equal(split.y, (table_of["label"] == "fraud").to_numpy()[rows])
        assert [n for n in dataset.notes if "'row'" in n] == [
            "column 'row' left out: 6000 distinct values in 6000 rows name the row"
        ]
        assert any(note.startswith("column 'color': 546 missing values") for note in dataset.notes)
        assert "column 'amount': 1200 missing values are the training part's mean" in dataset.notes

    def test_types_of_parquet(self, tmp_path):
        table_of = frame()[["amount", "label"]]
        table_of["price"] = [decimal.Decimal(k % 7) / 4 for k in range(N)]
        table_of["day"] = datetime.datetime(2024, 1, 1)
        table_of["size"] = pd.Categorical(["s", "l", None] * 2000)
        table_of["flag"] = pd.array([True, None, False] * 2000, "boolean")
        table_of["small"] = pd.array([1, 2, None] * 2000, "Int8")
        table_of.to_parquet(tmp_path / "t.parquet")
        dataset = self.prepared(tmp_path / "t.parquet", tmp_path)
        about = json.loads((tmp_path / "prepared" / "columns.json").read_text())
        assert about["names"] == ["amount", "price", "flag", "small", "size=l", "size=s"]
        assert about["plain"] == ["flag", "size=l", "size=s"]
        raw = np.load(tmp_path / "prepared" / "x.npy")
        np.testing.assert_array_equal(raw[:3, 2:], [[1, 1, 0, 1], [np.nan, 2, 1, 0], [0, np.nan, 0, 0]])
        assert raw[6, 1] == 1.5
        assert any("'day' left out: timestamp" in note for note in dataset.notes)

    def test_a_category_that_no_training_row_has_is_zero_everywhere(self, tmp_path):
        table_of = frame()
        table_of.to_parquet(tmp_path / "first.parquet")
        options = {"target": "label", "validation_share": 0.25}
        first = load(tmp_path / "first.parquet", prepared=str(tmp_path / "first"), **options)
        rows = {name: file_rows(split) for name, split in first.splits.items()}  # the split does not depend on values
        table_of.loc[rows["test"][::3], "color"] = "violet"
        table_of.loc[rows["validation"][::3], "color"] = "amber"
        table_of.to_parquet(tmp_path / "t.parquet")
        dataset = self.prepared(tmp_path / "t.parquet", tmp_path, validation_share=0.25)
        names = json.loads((tmp_path / "prepared" / "columns.json").read_text())["names"]
        for name, split in dataset.splits.items():
            assert np.array_equal(file_rows(split), rows[name])
            for color in ("amber", "violet"):
                np.testing.assert_array_equal(split.x[:][:, names.index(f"color={color}")], 0)
            for color in ("blue", "green", "red"):
                known = (table_of["color"] == color).to_numpy()[rows[name]]
                np.testing.assert_array_equal(split.x[:][:, names.index(f"color={color}")], known)
        assert "0 everywhere, for no training row has it: 'color=amber', 'color=violet'" in dataset.notes
        assert not any("no training row" in note for note in first.notes)
        train_part = load(tmp_path / "prepared", seed=1).train  # another one, which has it
        violet = (table_of["color"] == "violet").to_numpy()[file_rows(train_part)]
        assert violet.any()
        np.testing.assert_array_equal(train_part.x[:][:, names.index("color=violet")], violet)

    def test_many_categories_share_a_feature(self, tmp_path):
        table_of = frame()
        table_of["color"] = [f"c{k // 2 % (150 if k % 2 else 10)}" for k in range(N)]
        table_of.to_parquet(tmp_path / "t.parquet")
        self.prepared(tmp_path / "t.parquet", tmp_path, drop=("row", "count"))
        about = json.loads((tmp_path / "prepared" / "columns.json").read_text())
        assert len(about["names"]) == 2 + 100
        assert about["names"][-1] == "color: others"
        one_hot = np.load(tmp_path / "prepared" / "x.npy")[:, 2:]
        np.testing.assert_array_equal(one_hot.sum(1), 1)
        own = [name.removeprefix("color=") for name in about["names"][2:-1]]
        np.testing.assert_array_equal(one_hot[:, -1], ~table_of["color"].isin(own))
        assert {"c0", "c8", "c9"} <= set(own)  # the most frequent

    def test_prepared_once_and_never_of_other_files(self, tmp_path):
        path = tmp_path / "t.parquet"
        frame().to_parquet(path)
        first = self.prepared(path, tmp_path)
        made = (tmp_path / "prepared" / "x.npy").stat().st_mtime_ns
        assert self.prepared(path, tmp_path).train.x.digest == first.train.x.digest
        assert (tmp_path / "prepared" / "x.npy").stat().st_mtime_ns == made
        assert load(tmp_path / "prepared").classes == first.classes  # as a folder of arrays
        with pytest.raises(UserError, match=r"was not prepared from .* delete it"):
            self.prepared(path, tmp_path, drop=("count",))
        frame(5000).to_parquet(path)
        with pytest.raises(UserError, match=r"was not prepared from .* delete it"):
            self.prepared(path, tmp_path)

    def test_a_csv_file_may_turn_from_whole_numbers_to_others(self, tmp_path):
        table_of = frame()[["label"]]
        table_of["late"] = ["1"] * 5999 + ["1.5"]
        table_of.to_csv(tmp_path / "t.csv", index=False)
        self.prepared(tmp_path / "t.csv", tmp_path)
        assert np.load(tmp_path / "prepared" / "x.npy")[-1, 0] == 1.5

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            (
                {},
                {"target": "lable"},
                r"config\.data\.target='lable': no such column in t\.parquet; did you mean 'label'",
            ),
            ({}, {"drop": ("no",)}, r"config\.data\.drop='no': no such column"),
            ({}, {"target": ""}, r"config\.data\.target: name the column"),
            ({}, {"prepared": ""}, r"config\.data\.prepared: .* 4 bytes a value"),
            ({}, {"target": "amount"}, r"column 'amount' has \d+ distinct values or more and looks continuous"),
            (
                {"label": [None, *["a", "b"] * 2999, "b"]},
                {},
                r"labels in column 'label' are missing, the first in data row 1 ",
            ),
            ({"label": ["a"] * N}, {}, "at least two classes are needed, the labels hold only 'a'"),
            (
                {"amount": [np.inf] + [0.0] * (N - 1)},
                {},
                r"column 'amount' has infinite values, .* first in data row 1:",
            ),
            (
                {"amount": [0.0] * (N - 1) + [1e39]},
                {},
                r"column 'amount' has infinite values, .* first in data row 6000:",
            ),
            (
                {},
                {"drop": ("amount", "count", "color", "weekend")},
                r"no feature is left beside 'label'; column 'row' left out",
            ),
            ({}, {"test_share": 1.5}, r"config\.data\.test_share=1\.5: a number above 0 and below 1"),
            ({}, {"test_share": 0.99}, r"config\.data\.test_share=0\.99 of 24 blocks of 256 rows leaves no other"),
        ],
    )
    def test_errors(self, tmp_path, columns, options, message):
        frame().assign(**columns).to_parquet(tmp_path / "t.parquet")
        options = {"target": "label", "prepared": str(tmp_path / "prepared"), **options}
        with pytest.raises(UserError, match=message) as caught:
            load(tmp_path / "t.parquet", **options)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob(".*part"))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.parquet", b"nothing of the kind", "t.parquet cannot be read as a table: "),
            ("t.csv", b"label,a\n", "t.csv has no rows"),
            ("t.csv", b"label,a\n1,2\n1,2,3\n", "t.csv cannot be read as a table: "),
            ("t.txt", b"label\n", "ends in .csv, .csv.gz or .parquet"),
            ("folder", None, "holds neither x.npy and y.npy nor Parquet files"),
        ],
    )
    def test_unreadable_files(self, tmp_path, name, content, message):
        (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            self.prepared(tmp_path / name, tmp_path)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "prepared").exists()

    def test_a_failed_preparation_leaves_nothing(self, tmp_path, monkeypatch):
        frame().to_parquet(tmp_path / "t.parquet")
        full = OSError(28, "No space left on device")

        def fail(*_: Any) -> None:
            raise full

        monkeypatch.setattr("mbjax.data.tables.table_files._header", fail)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            self.prepared(tmp_path / "t.parquet", tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet"]

    def test_types_that_change_from_file_to_file(self, tmp_path):
        (tmp_path / "t").mkdir()
        frame().to_parquet(tmp_path / "t" / "a.parquet")
        frame().assign(amount="many").to_parquet(tmp_path / "t" / "b.parquet")
        assert pq.ParquetFile(tmp_path / "t" / "b.parquet").metadata.num_rows == N
        with pytest.raises(UserError, match="t cannot be read as a table: ") as caught:
            self.prepared(tmp_path / "t", tmp_path)
        assert "\n" not in str(caught.value)


X, Y = values()


@pytest.mark.parametrize(
    ("x", "y", "about", "message"),
    [
        (X.astype(np.float64), Y, {}, r"x.npy holds float64 \[6000, 4\]: an array \[rows, features\] of float32"),
        (X[0], Y, {}, "x.npy holds float32"),
        (np.asfortranarray(X), Y, {}, "in C order is needed"),
        (X, Y[:-1], {}, "y.npy has 5,999 labels for the 6,000 rows of x.npy"),
        (X, Y.astype(np.float32), {}, "y.npy holds float32 .*: a label for each row, integers or bools"),
        (X, 0 * Y, {}, "at least two classes are needed, the labels hold only '0'"),
        (X, np.arange(N) * (np.arange(N) < 3), {"classes": ["a", "b"]}, "class numbers 0 to 2 for the 2 classes named"),
        (X, Y, {"names": ["a"]}, "columns.json has 1 names for the 4 features"),
        (X, Y, {"plain": ["a"]}, "'a' in plain is none of the names"),
        (X, Y, {"names": 3}, "columns.json cannot be read"),
        (np.where(X[700, 2] == X, np.inf, X), Y, {}, "column 'x2' has infinite values, .* first in data row 701"),
        (X, (np.arange(N) == 700).astype(int), {}, "class '1' has no (train|test) example"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, x, y, about, message):
    with pytest.raises(UserError, match=message) as caught:
        load(write_arrays(tmp_path / "a", x, y, **about))
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_one_line(arrays, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"config\.data\.path: name a folder"):
        data.load("table", seed=0)
    monkeypatch.setenv("MBJAX_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"config\.data\.path='no': there is neither .* nor .*data/no"):
        load("no")
    options: list[dict[str, Any]] = [{"target": "y"}, {"drop": ("x",)}, {"prepared": "p"}]
    for option in options:
        with pytest.raises(UserError, match=rf"config\.data\.{next(iter(option))}=.* holds arrays"):
            load(arrays, **option)
    dataset = load(arrays, kept_mb=0)
    with (arrays / "x.npy").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"x\.npy ends before its row"):
        dataset.train.x[:]
    with pytest.raises(UserError, match=r"x\.npy cannot be read as an array"):
        load(arrays)
    (arrays / "y.npy").unlink()
    with pytest.raises(UserError, match="cannot be read as an array"):
        load(arrays)


def small_config(path: Path, **changes: Any) -> Any:
    config: Any = table_config.get_config()
    config.data.path = str(path)
    config.model.hidden = (8,)
    config.meta.steps = 4
    config.update(updates=12, updates_per_call=4)
    config.eval.every = 6
    config.update_from_flattened_dict(changes)
    return config


def test_a_run_on_a_table_learns_and_goes_on_to_the_bit(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_SCORED", 1024)
    config = small_config(arrays, **{"updates": 60, "eval.every": 30, "optimizer.lr": 0.1})
    result = train.train_and_evaluate(config, tmp_path / "whole")
    assert result["test"]["roc_auc"] > 0.75  # the first feature is shifted by 1.5 of its deviations
    assert len(np.load(tmp_path / "whole" / "predictions.npz")["labels"]) == len(load(arrays).test)
    assert 0.7 < result["train"]["roc_auc"] < 1
    assert any("are scored" in note for note in result["data"]["notes"])

    monkeypatch.setattr(loop, "_show", lambda row, *_: (_ for _ in ()).throw(KeyboardInterrupt))  # after the save
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, tmp_path / "stopped")
    monkeypatch.undo()
    monkeypatch.setattr(table, "_SCORED", 1024)
    assert train.train_and_evaluate(config, tmp_path / "stopped")["resumed_at"] == 30
    whole, stopped = (final_params(tmp_path / name, config) for name in ("whole", "stopped"))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(stopped), strict=True):
        np.testing.assert_array_equal(a, b)


def final_params(workdir: Path, config: Any) -> Any:
    experiment = train.build(config_lib.validate(config))
    checkpoints = checkpoint.Checkpoints(
        workdir / "checkpoints", keep=3, data=data.digest(experiment.dataset, ("train",))
    )
    state = checkpoints.restore(experiment.method.init(config.seed))
    checkpoints.close()
    assert int(state.step) == experiment.updates
    return jax.tree.map(np.asarray, (state.params, state.opt_state))


def test_a_run_reads_the_rows_that_its_sampler_draws(arrays):
    experiment = train.build(config_lib.validate(small_config(arrays)))
    x, y = values()
    train_rows = file_rows(experiment.dataset.train)
    scaled = experiment.dataset.train.x[:]
    count, batches = next(updates.feed(experiment, 4, [8], 4))
    assert count == 4
    for name, size in (("support", 24), ("query", 16)):
        batch: Any = batches[name]
        rows = experiment.streams[name].indices(4, 4, (4, size))
        np.testing.assert_array_equal(batch["x"], scaled[rows])
        np.testing.assert_array_equal(batch["y"], y[train_rows[rows]])
    assert 0.3 < np.mean(np.asarray(batches["query"]["y"])) < 0.7  # pyright: ignore
    assert experiment.streams["support"].epoch_length == len(train_rows)
    assert len(x) == N


def test_plain_training_takes_a_table(arrays, tmp_path):
    config: Any = table_config.get_config("erm")
    config.data.path = str(arrays)
    config.model.hidden = (8,)
    config.update(updates=20, updates_per_call=10)
    config.train.sampler = "class_balanced"
    assert train.train_and_evaluate(config, tmp_path / "run")["updates"] == 20
