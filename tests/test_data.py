"""Data sets: splits, what is learnt from the training part alone, official files, and one clear line for each error."""

import datetime
import decimal
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from mbjax import data
from mbjax.data import __main__ as cli
from mbjax.data import sources
from mbjax.data.imbalance import one_majority, subsample
from mbjax.data.splits import encode_labels, hold_out, split_indices
from mbjax.data.tables import fraud, loan
from mbjax.types import Dataset, Split, UserError

Y = np.repeat([0, 1, 2], [600, 300, 100])


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MBJAX_DATA_DIR", str(tmp_path))


REAL = Path(os.environ.get("MBJAX_DATA_DIR") or "nowhere")


def write(folder: Path, name: str = "table.csv", rows: int = 100, **columns) -> Path:
    """A table with a feature `a`, and 20% of its labels `y` "wrong", the others "ok"."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "y": np.where(np.arange(rows) % 5, "ok", "wrong")})
    frame = frame.assign(**columns)
    frame.to_csv(folder / name, index=False) if name.endswith("csv") else frame.to_parquet(folder / name)
    return folder / name


def load_table(path: Path | str, **options) -> Dataset:
    return data.load("tabular", seed=0, path=str(path), **{"target": "y", **options})


def split_of(rows: int) -> dict[str, np.ndarray]:
    """The rows of `write`'s table on each side of the split with seed 0."""
    return split_indices((np.arange(rows) % 5 == 0).astype(int), seed=0)


class TestSplits:
    def test_parts_are_disjoint_complete_and_stratified(self):
        parts = split_indices(Y, seed=3, validation_share=0.25)
        assert list(parts) == ["train", "validation", "test"]
        np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1000))
        np.testing.assert_array_equal(np.bincount(Y[parts["test"]]), [120, 60, 20])
        np.testing.assert_array_equal(np.bincount(Y[parts["validation"]]), [120, 60, 20])  # a quarter of 480, 240, 80
        np.testing.assert_array_equal(np.bincount(Y[parts["train"]]), [360, 180, 60])

    def test_seed_decides_and_validation_leaves_the_test_part_alone(self):
        test = split_indices(Y, seed=3)["test"]
        np.testing.assert_array_equal(test, split_indices(Y, seed=3, validation_share=0.3)["test"])
        assert len(np.setdiff1d(test, split_indices(Y, seed=4)["test"])) > 100
        assert split_indices(Y, seed=2**40).keys() == {"train", "test"}

    def test_unstratified_counts_vary(self):
        counts = {np.bincount(Y[split_indices(Y, seed=s, stratify=False)["test"]])[2] for s in range(5)}
        assert len(counts) > 1

    def test_groups_stay_together(self):
        rng = np.random.default_rng(0)
        groups = rng.permutation(np.repeat(np.arange(400) * 7919 % 1009, 3))  # values in no order
        y = (groups % 4 == 0).astype(int)
        parts = split_indices(y, seed=0, validation_share=0.2, groups=groups)
        sides = [set(groups[index]) for index in parts.values()]
        assert [len(side) for side in sides] == [256, 64, 80]
        assert len(set.union(*sides)) == 400
        assert sum(map(len, parts.values())) == 1200
        for index in parts.values():
            np.testing.assert_allclose(y[index].mean(), y.mean(), atol=0.01)

    @pytest.mark.parametrize(
        ("y", "share", "message"),
        [
            (Y, 1.5, r"config\.data\.validation_share=1\.5: a number above 0 and below 1"),
            ([0] * 9 + [1], 0.2, r"class '1' has only 1 example"),
            ([0, 0, 1, 1, 2, 2], 0.2, r"splits 6 examples into 4 and 2: too few on one side for 3 classes"),
            ([0, 0, 1, 1, 2, 2], 0.6, r"splits 6 examples into 2 and 4: too few"),
        ],
    )
    def test_errors(self, y, share, message):
        with pytest.raises(UserError, match=message):
            hold_out(np.array(y), share, seed=0)

    @pytest.mark.parametrize(
        ("labels", "classes", "y"),
        [
            (["no", "yes", "yes"], ("yes", "no"), [1, 0, 0]),  # the rarer is number 1
            (["yes", "no", "no"], ("no", "yes"), [1, 0, 0]),
            (["b", "a"], ("a", "b"), [1, 0]),  # a tie: sorted order
            ([True, True, False], ("True", "False"), [0, 0, 1]),
            ([0.0, 1.0, 1.0], ("1", "0"), [1, 0, 0]),
            ([10, 9, 10, 2], ("2", "9", "10"), [2, 1, 2, 0]),  # numbers, not text
        ],
    )
    def test_class_numbers(self, labels, classes, y):
        got, names, notes = encode_labels(pd.Series(labels))
        assert names == classes
        assert got.tolist() == y
        assert got.dtype == np.int32
        flipped = len(names) == 2 and list(names) != sorted(names)
        assert notes == ((f"the positive class (number 1) is {names[1]!r}, the rarer of the two",) if flipped else ())


class TestImbalance:
    def test_counts(self):
        index = subsample(Y, one_majority(3, 1, 5), seed=0)
        np.testing.assert_array_equal(np.bincount(Y[index]), [5, 300, 5])
        np.testing.assert_array_equal(index, np.unique(index))
        np.testing.assert_array_equal(np.bincount(Y[subsample(Y, one_majority(3, 1, 5, 20), seed=0)]), [5, 20, 5])
        np.testing.assert_array_equal(np.bincount(Y[subsample(Y, [4, 3, 2], seed=0)]), [4, 3, 2])

    def test_draws_by_seed_or_takes_the_first(self):
        draws = [subsample(Y, [5, 5, 5], seed=seed).tolist() for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]
        assert subsample(Y, [2, 1, 3], seed=0, first=True).tolist() == [0, 1, 600, 900, 901, 902]

    def test_errors(self):
        with pytest.raises(UserError, match="class 2 has 100 examples, 101 are wanted: choose 1 to 100"):
            subsample(Y, {2: 101}, seed=0)
        with pytest.raises(UserError, match="class 3 has 0 examples"):
            subsample(Y, {3: 1}, seed=0)
        with pytest.raises(UserError, match="majority_class=3: choose one of 0 to 2"):
            one_majority(3, 3, 5)


class TestDigits:
    def test_severe_imbalance_and_balanced_test(self):
        digits = data.load("digits", seed=0)
        assert digits.train.x.shape[1:] == (8, 8, 1)
        assert digits.train.x.dtype == np.float32
        assert (digits.train.x.min(), digits.train.x.max()) == (0, 1)
        in_full = np.count_nonzero(load_digits(return_X_y=True)[1] == 1) - 50
        assert digits.class_counts.tolist() == [5, in_full] + [5] * 8
        assert np.bincount(digits.test.y).tolist() == [50] * 10
        images = {x.tobytes() for x in digits.train.x}
        assert not images & {x.tobytes() for x in digits.test.x}

    def test_options_and_seed(self):
        a = data.load("digits", seed=0, majority_class=7, minority_count=10, test_count=20, validation_share=0.2)
        assert a.class_counts.tolist() == [8] * 7 + [(179 - 20) * 8 // 10] + [8] * 2
        assert np.bincount(a.splits["validation"].y)[0] == 2
        b = data.load("digits", seed=1, majority_class=7, minority_count=10, test_count=20, validation_share=0.2)
        assert not np.array_equal(a.test.x, b.test.x)


class TestTable:
    def test_scaling_and_imputing_know_the_training_part_alone(self, tmp_path):
        a = np.random.default_rng(1).normal(3, 2, 100)
        index = split_of(100)
        a[index["test"]] += 1e6
        a[index["train"][:5]] = np.nan
        a[index["test"][0]] = np.nan
        table = load_table(write(tmp_path, a=a))
        train = a[index["train"]]
        filled = np.where(np.isnan(a), np.nanmedian(train), a)
        mean, deviation = filled[index["train"]].mean(), filled[index["train"]].std()
        for part in ("train", "test"):
            np.testing.assert_allclose(
                getattr(table, part).x[:, 0], (filled[index[part]] - mean) / deviation, rtol=1e-5
            )
        assert table.notes == ("column 'a': 6 missing values imputed by the median",)
        assert table.classes == ("ok", "wrong")

    def test_one_hot_with_missing_and_unseen_values(self, tmp_path):
        index = split_of(100)
        city = np.array(["Bern", "Rome", "Rome", "Oslo"] * 25, object)
        city[index["train"][0]] = None
        city[index["test"][0]] = "Lima"
        table = load_table(write(tmp_path, city=city))
        train = pd.Series(city[index["train"]]).fillna("Rome")
        expected = np.stack([train == name for name in ("Bern", "Oslo", "Rome")], axis=1)
        np.testing.assert_array_equal(table.train.x[:, 1:], expected)
        assert table.test.x[0, 1:].tolist() == [0, 0, 0]
        assert table.notes == ("column 'city': 1 missing values imputed by the most frequent value",)

    def test_rarer_string_label_is_positive(self, tmp_path):
        table = load_table(write(tmp_path, y=np.where(np.arange(100) % 5, "ok", "failed")))
        assert table.classes == ("ok", "failed")
        assert table.class_counts.tolist() == [64, 16]
        assert table.source == "table.csv"
        assert table.notes == ("the positive class (number 1) is 'failed', the rarer of the two",)

    def test_multi_class(self, tmp_path):
        table = load_table(write(tmp_path, y=np.arange(100) % 4 * 5))
        assert table.classes == ("0", "5", "10", "15")
        assert table.class_counts.tolist() == [20] * 4

    def test_columns_left_out(self, tmp_path):
        index = split_of(300)
        late = np.full(300, np.nan)
        late[index["test"]] = 1.0
        path = write(
            tmp_path,
            "table.parquet",
            300,
            late=late,
            key=[f"k{i}" for i in range(300)],
            day=[datetime.timedelta(1)] * 300,
            spare=1.0,
        )
        table = load_table(path, drop=("spare",))
        assert table.train.x.shape == (240, 1)
        assert table.notes == (
            "column 'late' left out: no value in the training part",
            "column 'key' left out: 240 distinct values in 240 rows name the row",
            "column 'day' left out: timedelta64[us] is neither a number nor a category",
        )

    def test_many_categories_share_a_feature(self, tmp_path):
        table = load_table(write(tmp_path, rows=1000, zip=[f"z{i % 150}" for i in range(1000)]))
        assert table.train.x.shape == (800, 1 + 100)
        np.testing.assert_array_equal(table.train.x[:, 1:].sum(1), 1)
        assert table.notes == ("column 'zip': the rarest of its 150 values share one feature",)

    def test_parquet_types(self, tmp_path):
        """Whole numbers with gaps, exact numbers, bools with gaps and categories of numbers are what they say."""
        path = write(
            tmp_path,
            "table.parquet",
            whole=pd.array([1, None, 3, 4] * 25, "Int64"),
            exact=[decimal.Decimal("1.50"), decimal.Decimal("2.25")] * 50,
            flag=pd.array([True, None, False, True] * 25, "boolean"),
            grade=pd.Categorical(["1", "2"] * 50),
        )
        table = load_table(path)
        assert table.train.x.shape == (80, 3 + 2 + 2)
        np.testing.assert_allclose(table.train.x[:, :3].mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(table.train.x[:, :3].std(0), 1, atol=1e-6)
        assert set(np.unique(table.train.x[:, 3:])) == {0, 1}

    def test_path_is_looked_for_here_then_in_the_data_folder(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        write(tmp_path, rows=100)
        assert len(load_table("table.csv").train) == 80  # $MBJAX_DATA_DIR
        write(tmp_path / "here", rows=50)
        assert len(load_table("table.csv").train) == 40

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ({}, {"path": ""}, r"config\.data\.path: name a CSV or Parquet file"),
            ({}, {"path": "no.csv"}, r"config\.data\.path='no\.csv': there is neither /"),
            ({}, {"target": "Y"}, r"config\.data\.target='Y': no such column in table\.csv; it has 'a', 'y'"),
            ({"income": 1}, {"target": "incme"}, r"did you mean 'income'\?"),
            ({}, {"drop": ("b",)}, r"config\.data\.drop='b': no such column"),
            ({}, {"drop": ("a",)}, r"no feature is left beside 'y'"),
            ({"y": "x"}, {}, r"at least two classes are needed, the labels hold only 'x'"),
            ({"y": ["u", None, None, "v"] * 25}, {}, r"50 labels in column 'y' are missing, the first in data row 2"),
            ({"a": [0, 1, np.inf, -np.inf] * 25}, {}, r"column 'a' has 50 infinite values, the first in data row 3"),
            ({"y": np.linspace(0, 1, 100)}, {}, r"100 distinct numbers and looks continuous"),
            ({"y": np.arange(100)}, {}, r"100 distinct numbers and looks continuous"),
            ({"y": ["u", "v"] * 49 + ["u", "w"]}, {}, r"class 'w' has only 1 example .*test_share=0\.2"),
            ({"y": ["u"] * 98 + ["v"] * 2}, {}, r"class 'v' has no test example \(train 2, test 0\): merge it"),
            ({}, {"test_share": 0.0}, r"config\.data\.test_share=0\.0: a number above 0"),
            (
                {},
                {"majority_class": 1},
                r"majority_class=1: task 'tabular' takes no such option; it takes path, target",
            ),
        ],
    )
    def test_errors(self, tmp_path, columns, options, message):
        path = write(tmp_path, **columns)
        with pytest.raises(UserError, match=message) as error:
            load_table(**{"path": path, **options})
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", b"", r"t\.csv has no rows"),
            ("t.csv", b"a,y\n", r"t\.csv has no rows"),
            ("t.csv", b"a,y\n1,2\n1,2,3,4\n", r"t\.csv cannot be read as a table: .*line 3"),
            ("t.csv", b"a,y\n\xff\x81,1\n", r"t\.csv cannot be read as a table: it is no text in utf-8"),
            ("t.parquet", b"a,y\n1,2\n", r"t\.parquet cannot be read as a table"),
            ("t.xlsx", b"PK", r"t\.(xlsx: .* pip install openpyxl|xlsx cannot be read as a table)"),
        ],
    )
    def test_unreadable_files(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load_table(tmp_path / name)
        assert "\n" not in str(error.value)


class TestLoad:
    def test_unknown_task(self):
        with pytest.raises(UserError, match=r"config\.task='cats': choose one of digits, fraud, loan, tabular"):
            data.load("cats", seed=0)

    def test_unset_options_are_left_to_the_loader(self):
        digits = data.load("digits", seed=0, dir="", path=None, drop=(), minority_count=None)
        assert digits.class_counts[0] == 5
        with pytest.raises(
            UserError, match=r"config\.data\.target='x': task 'digits' takes no such option; it takes ma"
        ):
            data.load("digits", seed=0, target="x")

    @pytest.mark.parametrize(
        ("part", "x", "y", "message"),
        [
            ("test", [[np.nan], [0]], [0, 1], "fake: the test features are not all finite"),
            (
                "validation",
                [[0], [0]],
                [0, 0],
                r"class 'b' has no validation example \(train 1, test 1, validation 0\)",
            ),
            ("train", [[0], [0]], [1, 1], r"class 'a' has no train example .*--config\.data\.test_share"),
            ("train", [[0], [0]], [0, 2], "fake: the train labels must be class numbers, whole numbers from 0 to 1"),
            ("test", [[0], [0]], [-1, 1], "fake: the test labels must be class numbers"),
            ("test", [[0], [0], [0]], [0, 1], "fake: the test split has 3 examples and 2 labels"),
        ],
    )
    def test_every_data_set_is_checked(self, part, x, y, message):
        good = Split(np.zeros((2, 1), np.float32), np.array([0, 1], np.int32))
        splits = {"train": good, "test": good, part: Split(np.array(x, np.float32), np.array(y, np.int32))}
        with pytest.raises(UserError, match=message):
            data.check(Dataset(splits, ("a", "b"), "fake"))


def write_fraud(folder: Path, name: str = "creditcard.csv") -> pd.DataFrame:
    """90 payments, 30 of them written twice or three times at other times."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(5, 3, (90, 29)), columns=list(fraud.FEATURES)).assign(Class=np.arange(90) % 3 // 2)
    frame = pd.concat([frame, frame[:30], frame[:15]], ignore_index=True).assign(Time=np.arange(135.0))
    frame.to_csv(folder / name, index=False) if name.endswith("csv") else frame.to_parquet(folder / name)
    return frame


class TestOfficialTables:
    @pytest.mark.parametrize("seed", range(3))
    def test_fraud_keeps_duplicates_together_and_scales_the_amount_alone(self, tmp_path, seed):
        frame = write_fraud(tmp_path)
        table = data.load("fraud", seed=seed)
        sides = [{row.tobytes() for row in split.x} for split in table.splits.values()]
        assert [len(side) for side in sides] == [72, 18]
        assert not sides[0] & sides[1]
        assert len(table.train) + len(table.test) == 135
        np.testing.assert_allclose(table.train.x[:, -1].mean(), 0, atol=1e-6)
        np.testing.assert_allclose(table.train.x[:, -1].std(), 1, atol=1e-6)
        assert {x for split in table.splits.values() for x in split.x[:, 0]} == set(frame["V1"].astype(np.float32))
        assert table.notes[0] == ("creditcard.csv, 135 rows, 45 frauds: a subset, not the original's 284,807 and 492")

    def test_fraud_takes_the_official_file_first(self, tmp_path):
        for name in reversed(fraud.FILES):
            write_fraud(tmp_path, name)
            assert data.load("fraud", seed=0).source == name

    def test_columns_are_checked(self, tmp_path):
        frame = write_fraud(tmp_path)
        frame.drop(columns="V7").to_csv(tmp_path / "creditcard.csv", index=False)
        with pytest.raises(UserError, match=r"creditcard\.csv has no column 'V7': is it the official file\?"):
            data.load("fraud", seed=0)
        frame.assign(V7="x").to_csv(tmp_path / "creditcard.csv", index=False)
        with pytest.raises(UserError, match=r"values that are not numbers in column 'V7'"):
            data.load("fraud", seed=0)
        pd.DataFrame({"purpose": ["car"], "fico": [700]}).to_csv(tmp_path / "loan_data.csv", index=False)
        with pytest.raises(UserError, match=r"loan_data\.csv has no column 'credit\.policy', 'int\.rate'"):
            data.load("loan", seed=0)

    @pytest.mark.skipif(not (REAL / "loan_data.csv").exists(), reason="no loan_data.csv in $MBJAX_DATA_DIR")
    def test_real_loans(self):
        table = data.load("loan", seed=0, dir=str(REAL))
        assert table.train.x.shape == (7662, 12)
        assert table.test.x.shape == (1916, 12)
        assert table.classes == ("0", "1")
        assert (table.class_counts + np.bincount(table.test.y)).tolist() == [8045, 1533]
        assert table.class_counts.tolist() == [6436, 1226]
        np.testing.assert_allclose(table.train.x.mean(0, np.float64), 0, atol=1e-6)
        np.testing.assert_allclose(table.train.x.std(0, np.float64), 1, atol=1e-6)
        assert np.abs(table.test.x.mean(0)).max() > 1e-3  # scaled by the training part, not by itself
        assert table.notes == ()

    @pytest.mark.skipif(
        not any((REAL / name).exists() for name in fraud.FILES), reason="no creditcard file in $MBJAX_DATA_DIR"
    )
    def test_real_frauds(self):
        table = data.load("fraud", seed=0, dir=str(REAL))
        counts = table.class_counts + np.bincount(table.test.y)
        assert counts[1] == 492
        if table.source == "creditcard_subset.parquet":
            assert counts[0] == 16464
            assert "16,956 rows, 492 frauds: a subset" in table.notes[0]
        assert table.train.x.shape[1] == 29
        rows = [{row.tobytes() for row in np.column_stack([s.x, s.y])} for s in (table.train, table.test)]
        assert sum(map(len, rows)) < counts.sum()  # there are duplicates...
        assert not rows[0] & rows[1]  # ...on one side each


class Server(http.server.BaseHTTPRequestHandler):
    content = b"Time,V1\n" * 1000

    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # pyright: ignore[reportAttributeAccessIssue]
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[:4000] if self.path == "/cut" else self.content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[http.server.HTTPServer]:
    """Serves the file of task `fraud` on the loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.paths = []  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        serve(server, monkeypatch)
        yield server
        server.shutdown()
        thread.join()


def serve(server, monkeypatch, path: str = "/good", sha256: str = hashlib.sha256(Server.content).hexdigest()) -> None:
    remote = sources.Remote("creditcard.csv", f"http://127.0.0.1:{server.server_port}{path}", sha256)
    monkeypatch.setitem(sources.REMOTES, "fraud", remote)


class TestSources:
    def test_folder(self, monkeypatch, tmp_path):
        assert sources.data_dir("x") == Path("x")
        assert sources.data_dir() == tmp_path
        monkeypatch.delenv("MBJAX_DATA_DIR")
        monkeypatch.setenv("HOME", "/home/ada")
        assert sources.data_dir() == Path("/home/ada/.cache/mbjax")
        assert sources.data_dir("~/d") == Path("/home/ada/d")

    def test_missing_file_says_where_to_get_it_and_where_to_put_it(self, tmp_path):
        with pytest.raises(UserError) as error:
            loan.load(seed=0)
        assert str(error.value) == (
            f"no loan_data.csv in {tmp_path}: get loan_data.csv from https://www.kaggle.com/datasets/sarahvch/"
            "predicting-who-pays-back-loans and put it there, or name its folder with --config.data.dir=DIR or "
            "MBJAX_DATA_DIR"
        )
        with pytest.raises(UserError, match=r"run `python -m mbjax\.data fetch fraud`, or get creditcard\.csv from"):
            fraud.load(seed=0)

    def test_fetch_once(self, server, tmp_path, capsys):
        for _ in range(2):
            cli.main(["fetch", "fraud", "--dir", str(tmp_path / "new")])
            assert capsys.readouterr().out == f"{tmp_path / 'new' / 'creditcard.csv'}\n"
        assert (tmp_path / "new" / "creditcard.csv").read_bytes() == Server.content
        assert server.paths == ["/good"]

    @pytest.mark.parametrize(
        ("path", "sha256", "message"),
        [
            ("/good", "0" * 64, "wrong checksum, nothing was kept: try again, or get creditcard.csv from https://www"),
            (
                "/gone",
                "0" * 64,
                "could not be downloaded (HTTP status 404): check the network, or get creditcard.csv from",
            ),
            ("/cut", hashlib.sha256(Server.content).hexdigest(), "could not be downloaded ("),
        ],
    )
    def test_failed_fetch_keeps_nothing(self, server, monkeypatch, tmp_path, capsys, path, sha256, message):
        serve(server, monkeypatch, path, sha256)
        with pytest.raises(SystemExit) as left:
            cli.main(["fetch", "fraud"])
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert list(tmp_path.iterdir()) == []

    def test_no_network(self, server, monkeypatch, tmp_path):
        server.shutdown()
        server.server_close()
        with pytest.raises(
            UserError, match=r"could not be downloaded \(ConnectionError\): check the network, or get creditcard"
        ):
            sources.fetch("fraud")

    def test_another_file_is_not_overwritten(self, server, tmp_path):
        (tmp_path / "creditcard.csv").write_text("mine")
        with pytest.raises(UserError, match=r"is not the official file .* move it away first"):
            sources.fetch("fraud")
        assert (tmp_path / "creditcard.csv").read_text() == "mine"

    def test_folder_that_cannot_be_made(self, server, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot be written .*choose another folder with --dir"):
            sources.fetch("fraud", str(tmp_path / "file"))
