"""CIFAR-10 in each layout and a person's own images: decoding, imbalances, and one clear line for each error."""

import io
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs import images as images_config
from mbjax import data
from mbjax.data import sources
from mbjax.data.images import cifar10
from mbjax.data.images import labelled as images
from mbjax.data.imbalance import class_counts, imbalanced_parts, long_tail, uniform_minorities
from mbjax.types import Dataset, UserError

REAL = Path(os.environ.get("MBJAX_DATA_DIR") or "nowhere")
N = 20  # images of each file: 10 training images of each class, 2 test images
BINARY = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
PYTHON = [name.removesuffix(".bin") for name in BINARY]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MBJAX_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", N)


def pixels(file: int) -> np.ndarray:
    """The images of a file as they are stored, uint8 `[N, 3072]`. No two are alike."""
    return np.random.default_rng(file).integers(0, 256, (N, 3072), dtype=np.uint8)


LABELS = np.arange(N) % 10


def expected(file: int) -> np.ndarray:
    """The images `[N, 32, 32, 3]` of `pixels`, one pixel after another."""
    stored, out = pixels(file), np.empty((N, 32, 32, 3), np.uint8)
    for row in range(32):
        for column in range(32):
            for channel in range(3):
                out[:, row, column, channel] = stored[:, channel * 1024 + row * 32 + column]
    return out


def write_binary(folder: Path) -> Path:
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir()
    for file, name in enumerate(BINARY):
        (folder / name).write_bytes(np.column_stack([LABELS, pixels(file)]).astype(np.uint8).tobytes())
    return folder


def write_python(folder: Path, protocol: int = 2) -> Path:
    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    for file, name in enumerate(PYTHON):
        batch = {"data": pixels(file), "labels": LABELS.tolist(), "batch_label": b"a batch"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return folder


def write_archive(folder: Path, name: str, prefix: str = "") -> Path:
    """Packs a folder as the official archives are packed, and takes it away."""
    path = folder.with_name(name)
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir(), reverse=True):  # in no helpful order
            archive.add(file, arcname=f"{prefix}{folder.name}/{file.name}")
            file.unlink()
    folder.rmdir()
    return path


def write_npz(folder: Path, name: str = "cifar10.npz", **changes) -> Path:
    x = np.concatenate([expected(file) for file in range(5)])
    arrays = {"x_train": x, "y_train": np.tile(LABELS, 5)[:, None], "x_test": expected(5), "y_test": LABELS}
    arrays = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    np.savez(folder / name, **arrays)
    return folder / name


def write_tfds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepares the small files with TFDS's own CIFAR-10 builder and writer.

    Only the two functions that need TensorFlow or the network are replaced: the download, and reading the files into
    arrays, which the builder would have TensorFlow encode as PNG.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")
    pytest.importorskip("array_record")
    from tensorflow_datasets.image_classification import cifar

    raw = folder / "raw"
    raw.mkdir()
    (write_binary(raw) / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES) + "\n")

    def examples(path, labels_number):
        for image, label in zip(expected(BINARY.index(Path(path).name)), LABELS, strict=True):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            png.seek(0)
            yield [label], png

    monkeypatch.setattr(cifar, "_load_data", examples)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(raw))
    return cifar10.prepare_tfds(folder)


def assert_official(parts: cifar10.Parts) -> None:
    np.testing.assert_array_equal(parts.train.x, np.concatenate([expected(file) for file in range(5)]))
    np.testing.assert_array_equal(parts.train.y, np.tile(LABELS, 5))
    np.testing.assert_array_equal(parts.test.x, expected(5))
    np.testing.assert_array_equal(parts.test.y, LABELS)
    assert (parts.train.x.dtype, parts.train.y.dtype) == (np.uint8, np.int32)


class TestLayouts:
    def test_red_plane_comes_first_row_by_row(self, tmp_path):
        folder = write_binary(tmp_path)
        record = bytearray((folder / BINARY[1]).read_bytes())
        record[:3073] = bytes([0]) + bytes(3072)
        record[1] = 11  # the first red value
        record[1 + 1] = 12  # red of the pixel to its right
        record[1 + 32] = 13  # red of the pixel below it
        record[1 + 1024] = 21  # the first green value
        record[1 + 2048] = 31  # the first blue value
        (folder / BINARY[1]).write_bytes(record)
        image = cifar10.read_binary(folder, images=N).train.x[N]
        assert image[0, 0].tolist() == [11, 21, 31]
        assert image[0, 1].tolist() == [12, 0, 0]
        assert image[1, 0].tolist() == [13, 0, 0]
        assert image.sum() == 11 + 21 + 31 + 12 + 13

    def test_binary(self, tmp_path):
        assert_official(cifar10.read_binary(write_binary(tmp_path), images=N))

    @pytest.mark.parametrize("prefix", ["", "./"])
    def test_archives_are_read_without_unpacking(self, tmp_path, prefix):
        path = write_archive(write_binary(tmp_path), "cifar-10-binary.tar.gz", prefix)
        assert_official(cifar10.read_binary(path, images=N))
        path = write_archive(write_python(tmp_path), "cifar-10-python.tar.gz", prefix)
        assert_official(cifar10.read_python(path, images=N))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"]

    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_pickles(self, tmp_path, protocol):
        assert_official(cifar10.read_python(write_python(tmp_path, protocol), images=N))

    def test_pickles_of_python_2(self, tmp_path):
        """The official files: NumPy's old module names, byte strings as keys, 0 and 1 for the flags of a dtype."""
        folder = write_python(tmp_path)
        for file, name in enumerate(PYTHON):
            labels = b"".join(b"K" + bytes([label]) for label in LABELS)
            (folder / name).write_bytes(
                b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00"
                b"\x85U\x01b\x87Rq\x05(K\x01K\x14M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U"
                b"\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
                + struct.pack("<i", N * 3072)
                + pixels(file).tobytes()
                + b"tbU\x06labelsq\x08]q\x09("
                + labels
                + b"eu."
            )
        assert_official(cifar10.read_python(folder, images=N))

    def test_npz_with_labels_as_keras_has_them(self, tmp_path):
        assert_official(cifar10.read_npz(write_npz(tmp_path), images=N))

    def test_tfds_in_the_official_order_without_tensorflow(self, tmp_path, monkeypatch):
        path = write_tfds(tmp_path, monkeypatch)
        assert_official(cifar10.read_tfds(path, images=N))
        dataset = data.load("cifar10", seed=0, imbalance="none")
        assert dataset.source == f"cifar10/{path.name}"
        assert dataset.notes[0] == "CIFAR-10 in the layout 'tfds'"
        assert "tensorflow" not in sys.modules

        info = path / "dataset_info.json"
        info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
        with pytest.raises(
            UserError, match=r"3\.0\.2 cannot be read \(Random access .*TFRECORD.*\): move it away and "
        ):
            data.load("cifar10", seed=0)
        info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
        with pytest.raises(UserError, match=r"3\.0\.2 cannot be read \(it has 100 train images, 50 are needed\): move"):
            cifar10.read_tfds(path, images=10)
        shard = next(path.glob("*train*"))
        shard.write_bytes(shard.read_bytes()[:-70_000])
        with pytest.raises(UserError, match=r"3\.0\.2 cannot be read \(.*\): move it away and choose"):
            data.load("cifar10", seed=0)

    def test_tfds_mock_data(self, tmp_path, monkeypatch):
        path = write_tfds(tmp_path, monkeypatch)
        testing = pytest.importorskip("tensorflow_datasets").testing

        def source(files: range) -> list:
            pairs = [(file, row) for file in files for row in range(N)]
            examples = [
                {"id": f"{file}_{row:03}".encode(), "image": expected(file)[row], "label": LABELS[row]}
                for file, row in pairs
            ]
            return [examples[k] for k in np.random.default_rng(0).permutation(len(examples))]

        def shuffled(self, split=None, **options):
            return {"train": source(range(5)), "test": source(range(5, 6))}

        with testing.mock_data(as_data_source_fn=shuffled, data_dir=path):
            assert_official(cifar10.read_tfds(path, images=N))
        # What TFDS itself makes up has as many examples in either part.
        with (
            testing.mock_data(num_examples=5 * N, data_dir=path),
            pytest.raises(UserError, match=rf"cannot be read \(it has {5 * N} test images, {N} are needed\)"),
        ):
            cifar10.read_tfds(path, images=N)

    def test_every_layout_gives_the_same_draw(self, tmp_path, monkeypatch):
        write_tfds(tmp_path, monkeypatch)
        for write in (write_binary, write_python, write_npz):
            write(tmp_path)
        loaded = {name: data.load("cifar10", seed=3, source=name) for name in cifar10.LAYOUTS}
        for dataset in loaded.values():
            np.testing.assert_array_equal(dataset.train.x, loaded["binary"].train.x)
        assert len({dataset.source for dataset in loaded.values()}) == 4

    def test_auto_takes_the_first_that_is_there(self, tmp_path):
        def read() -> str:
            return data.load("cifar10", seed=0).source

        write_npz(tmp_path)
        assert read() == "cifar10.npz"
        write_archive(write_python(tmp_path), "cifar-10-python.tar.gz")
        assert read() == "cifar-10-python.tar.gz"
        write_python(tmp_path)
        assert read() == "cifar-10-batches-py"
        write_archive(write_binary(tmp_path), "cifar-10-binary.tar.gz")
        assert read() == "cifar-10-binary.tar.gz"
        write_binary(tmp_path)
        assert read() == "cifar-10-batches-bin"
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(UserError, match=r"no cifar-10-batches-bin or .* or cifar10\.npz in .*elsewhere: "):
            data.load("cifar10", seed=0, dir=str(tmp_path / "elsewhere"))


class TestCifarErrors:
    def test_missing(self, tmp_path):
        with pytest.raises(UserError) as error:
            data.load("cifar10", seed=0)
        assert str(error.value) == (
            "no cifar-10-batches-bin or cifar-10-binary.tar.gz or cifar-10-batches-py or cifar-10-python.tar.gz or "
            f"cifar10.npz in {tmp_path}: get CIFAR-10 from https://www.cs.toronto.edu/~kriz/cifar.html and put it "
            "there, or name its folder with --config.data.dir=DIR or MBJAX_DATA_DIR"
        )
        with pytest.raises(UserError, match=r"no cifar10\.npz in"):
            data.load("cifar10", seed=0, source="npz")
        with pytest.raises(
            UserError, match=r"config\.data\.source='hdf5': choose one of auto, binary, python, npz, tfds"
        ):
            data.load("cifar10", seed=0, source="hdf5")

    def test_cut_off(self, tmp_path):
        folder = write_binary(tmp_path)
        whole = (folder / BINARY[2]).read_bytes()
        for kept in (whole[:-1], whole[:-3073], b"", whole + b"\0"):
            (folder / BINARY[2]).write_bytes(kept)
            with pytest.raises(UserError, match=rf"data_batch_3\.bin has {len(kept)} bytes, 61460 are needed \(20 ima"):
                data.load("cifar10", seed=0)
        (folder / BINARY[2]).unlink()
        with pytest.raises(
            UserError, match=r"cifar-10-batches-bin has no data_batch_3\.bin: unpack it anew, or get it"
        ):
            data.load("cifar10", seed=0)

    @pytest.mark.parametrize("kept", [0, 100, -10_000])
    def test_cut_off_archive(self, tmp_path, kept):
        path = write_archive(write_binary(tmp_path), "cifar-10-binary.tar.gz")
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz cannot be read \(.*\): get it again from https"):
            data.load("cifar10", seed=0)

    def test_labels(self, tmp_path):
        folder = write_binary(tmp_path)
        records = bytearray((folder / BINARY[5]).read_bytes())
        records[3073 * 4] = 10
        (folder / BINARY[5]).write_bytes(records)
        with pytest.raises(
            UserError, match=r"test_batch\.bin: the label of image 4 is 10, 0 to 9 is needed: it is not"
        ):
            data.load("cifar10", seed=0)
        records[3073 * 4] = 3
        (folder / BINARY[5]).write_bytes(records)
        with pytest.raises(
            UserError, match=r"cifar-10-batches-bin: class 'cat' has 3 test images, 2 are needed: it is"
        ):
            data.load("cifar10", seed=0)

    def test_a_pickle_that_would_run_a_command_is_refused(self, tmp_path):
        folder, trace = write_python(tmp_path), tmp_path / "trace"

        class Malicious:
            def __reduce__(self):
                return os.system, (f"touch {trace}",)

        for content in ({"data": Malicious(), "labels": []}, Malicious()):
            (folder / PYTHON[0]).write_bytes(pickle.dumps(content, 2))
            with pytest.raises(
                UserError, match=r"data_batch_1 is no pickle of arrays alone \(it asks for 'posix\.system'\)"
            ):
                data.load("cifar10", seed=0)
        assert not trace.exists()
        pickle.loads(pickle.dumps(Malicious(), 2))  # else the test would prove nothing
        assert trace.exists()

    @pytest.mark.parametrize(
        "stream",
        [
            b"cnumpy\nfromfile\n.",
            b"c__builtin__\neval\nU\x011\x85R.",
            b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
            b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
            b"cos\nsystem\n.",
            b"",
            b"no pickle",
        ],
    )
    def test_pickles_of_anything_else(self, tmp_path, stream):
        folder = write_python(tmp_path)
        (folder / PYTHON[0]).write_bytes(stream)
        with pytest.raises(
            UserError, match=r"data_batch_1 is no pickle of arrays alone \(.*\): it is not the official"
        ):
            data.load("cifar10", seed=0)

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ([1], r"data_batch_1 holds a list, a dict is needed"),
            ({"labels": [1]}, r"'data' is a NoneType, uint8 \(20, 3072\) is needed"),
            ({"data": np.zeros((3, 3072), np.uint8)}, r"'data' is uint8 \(3, 3072\), uint8 \(20, 3072\) is needed"),
            ({"data": np.zeros((N, 3072)), "labels": []}, r"'data' is float64 \(20, 3072\), uint8"),
            ({"data": np.zeros((N, 3072), np.uint8), "labels": [1]}, r"'labels' is not a list of 20 whole numbers"),
            ({"data": np.zeros((N, 3072), np.uint8), "labels": ["1"] * N}, r"'labels' is not a list of 20 whole numb"),
            (
                {"data": np.zeros((N, 3072), np.uint8), "labels": [-1] * N},
                r"the label of image 0 is -1, 0 to 9 is need",
            ),
        ],
    )
    def test_pickles_of_other_arrays(self, tmp_path, batch, message):
        folder = write_python(tmp_path)
        (folder / PYTHON[0]).write_bytes(pickle.dumps(batch, 2))
        with pytest.raises(UserError, match=message):
            data.load("cifar10", seed=0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y_test": None}, r"cifar10\.npz has no array y_test \(it has x_train, y_train, x_test\): save all of"),
            (
                {"x_test": np.zeros((N, 3, 32, 32), np.uint8)},
                r"x_test is uint8 \(20, 3, 32, 32\), uint8 \(20, 32, 32, 3",
            ),
            ({"x_train": np.zeros((100, 32, 32, 3))}, r"x_train is float64 \(100, 32, 32, 3\), uint8 .* is needed"),
            ({"y_train": np.zeros(99, int)}, r"y_train is int64 \(99,\), whole numbers \(100,\) are needed"),
            ({"y_train": np.full(100, 12)}, r"cifar10\.npz: the label of image 0 is 12, 0 to 9 is needed"),
            ({"y_test": np.array([None] * N)}, r"it is no \.npz file, or holds Python objects"),
        ],
    )
    def test_npz(self, tmp_path, changes, message):
        write_npz(tmp_path, **changes)
        with pytest.raises(UserError, match=message):
            data.load("cifar10", seed=0)

    def test_tfds_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        with pytest.raises(UserError, match=r"source='tfds' needs tensorflow-datasets .*: pip install 'mbjax\[tfds\]'"):
            data.load("cifar10", seed=0, source="tfds")

    def test_tfds_that_cannot_be_prepared(self, tmp_path, monkeypatch):
        tfds = pytest.importorskip("tensorflow_datasets")

        def builder(name, **options):
            assert (name, options) == ("cifar10", {"data_dir": tmp_path, "file_format": "array_record"})
            raise ConnectionError("a long story\nno network")

        monkeypatch.setattr(tfds, "builder", builder)
        with pytest.raises(
            UserError, match=r"cannot prepare cifar10 in .* \(no network\): check the network, pip insta"
        ):
            data.load("cifar10", seed=0, source="tfds")


def balanced(each: int) -> np.ndarray:
    return np.tile(np.arange(10), each)


def counts_of(imbalance: str, y: np.ndarray, **options) -> list[int]:
    options = {"seed": 0, "source": "images", "majority_class": 1, **options}
    return class_counts(imbalance, y, cifar10.CLASSES, published=cifar10.PUBLISHED, **options)


class TestImbalances:
    def test_counts(self):
        y = balanced(5000)
        assert counts_of("severe", y) == [5, 5000, 5, 5, 5, 5, 5, 5, 5, 5]
        assert counts_of("severe", y, majority_class=9) == [5] * 9 + [5000]
        assert counts_of("moderate_authors", y) == [31, 5000, 46, 37, 6, 14, 43, 16, 41, 19]
        assert counts_of("none", y) == [5000] * 10
        assert counts_of("counts", y, counts=range(1, 11)) == list(range(1, 11))
        # As published for CIFAR-10 by Cui et al. and used since under the name of CIFAR-10-LT.
        assert counts_of("long_tail", y) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
        assert counts_of("long_tail", y, ratio=10.0)[-1] == 500
        assert counts_of("long_tail", y, ratio=1.0) == [5000] * 10

    def test_long_tail_of_classes_of_other_sizes(self):
        assert long_tail([100, 20], 2.0) == [40, 20]
        assert long_tail([30, 20], 2.0) == [30, 15]
        assert long_tail([30, 20], 1000.0) == [30, 1]

    def test_moderate_draws_every_number_from_5_to_50(self):
        drawn = [uniform_minorities([5000] * 10, 1, (5, 50), seed=seed) for seed in range(200)]
        assert {counts[1] for counts in drawn} == {5000}
        others = np.delete(np.array(drawn), 1, axis=1)
        assert set(others.ravel()) == set(range(5, 51))
        assert abs(others.mean() - 27.5) < 1.2  # four standard errors of 1,800 numbers
        assert drawn[0] != drawn[1]
        assert drawn[7] == uniform_minorities([5000] * 10, 1, (5, 50), seed=7)

    def test_draws(self):
        y = balanced(50)

        def draw(**options) -> np.ndarray:
            parts, _ = imbalanced_parts(
                y, cifar10.CLASSES, **{"seed": 0, "source": "", "imbalance": "severe", "majority_class": 1, **options}
            )
            return parts["train"]

        np.testing.assert_array_equal(draw(), draw())
        assert not np.array_equal(draw(), draw(seed=1))
        np.testing.assert_array_equal(np.bincount(y[draw()]), [5, 50] + [5] * 8)
        first = [number for number in range(500) if number % 10 == 1 or number < 50]
        np.testing.assert_array_equal(draw(first=True), first)
        np.testing.assert_array_equal(draw(first=True, seed=1), first)

    def test_validation_part(self):
        y = balanced(50)
        options = {"seed": 0, "source": "", "majority_class": 1}
        whole, note = imbalanced_parts(y, cifar10.CLASSES, imbalance="severe", **options)
        assert note.startswith("imbalance 'severe': airplane 5, automobile 50, bird 5, ")
        assert note.endswith("truck 5 (drawn by seed)")
        parts, note = imbalanced_parts(y, cifar10.CLASSES, imbalance="severe", validation_share=0.2, **options)
        assert note.endswith("(drawn by seed), of which 0.2 is the validation part")
        np.testing.assert_array_equal(np.bincount(y[parts["validation"]]), [1, 10] + [1] * 8)
        np.testing.assert_array_equal(np.sort(np.concatenate([*parts.values()])), whole["train"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"imbalance": "mild"},
                r"config\.data\.imbalance='mild': choose one of none, severe, moderate, long_tail, c",
            ),
            ({"majority_class": 10}, r"config\.data\.majority_class=10: choose one of 0 to 9"),
            ({"counts": (1,) * 10}, r"counts=\(1, .* with config\.data\.imbalance='severe': leave the counts out, or"),
            ({"imbalance": "counts"}, r"config\.data\.counts=\(\): 10 whole numbers are needed, one for each class"),
            ({"imbalance": "counts", "counts": (1.5,) * 10}, r"counts=\(1\.5, .*: 10 whole numbers are needed"),
            (
                {"imbalance": "counts", "counts": (9, 9, 9, 11, 9, 9, 9, 9, 9, 9)},
                r"cifar-10-batches-bin: class 'cat' has 10 training images, config\.data\.imbalance='counts' wants 11",
            ),
            (
                {"imbalance": "counts", "counts": (0,) * 10},
                r"class 'airplane' has 10 training images, .* wants 0: choose",
            ),
            (
                {"imbalance": "moderate_authors"},
                r"class 'airplane' has 10 training images, .* wants 31: choose 1 to 10",
            ),
            (
                {"imbalance": "moderate", "minority_counts": (5, 4)},
                r"minority_counts=\(5, 4\): the smallest and the larg",
            ),
            (
                {"imbalance": "moderate", "minority_counts": (0, 4)},
                r"minority_counts=\(0, 4\): the smallest and the larg",
            ),
            (
                {"imbalance": "moderate", "minority_counts": (4,)},
                r"minority_counts=\(4,\): the smallest and the largest",
            ),
            ({"imbalance": "long_tail", "ratio": 0.5}, r"config\.data\.ratio=0\.5: a number of at least 1 is needed"),
            ({"validation_share": 1.0}, r"config\.data\.validation_share=1\.0: a number above 0 and below 1"),
        ],
    )
    def test_errors(self, tmp_path, options, message):
        write_binary(tmp_path)
        with pytest.raises(UserError, match=message):
            data.load("cifar10", seed=0, **options)

    def test_cifar10_end_to_end(self, tmp_path):
        write_binary(tmp_path)
        dataset = data.load("cifar10", seed=0, majority_class=2, validation_share=0.2)
        np.testing.assert_array_equal(dataset.class_counts, [4, 4, 8, 4, 4, 4, 4, 4, 4, 4])
        np.testing.assert_array_equal(dataset.test.x, expected(5))
        assert dataset.classes[3] == "cat"
        assert dataset.notes == (
            "CIFAR-10 in the layout 'binary'",
            "imbalance 'severe': airplane 5, automobile 5, bird 10, cat 5, deer 5, dog 5, frog 5, horse 5, ship 5, "
            "truck 5 (drawn by seed), of which 0.2 is the validation part",
        )
        known = {
            image.tobytes(): label for file in range(5) for image, label in zip(expected(file), LABELS, strict=True)
        }
        for part in ("train", "validation"):  # each image still has its label
            split = dataset.splits[part]
            assert [known.pop(image.tobytes()) for image in split.x] == split.y.tolist()


@pytest.mark.skipif(not (REAL / "cifar-10-batches-bin").is_dir(), reason="CIFAR-10 is not in MBJAX_DATA_DIR")
def test_real_cifar10(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", 10_000)
    dataset = data.load("cifar10", seed=0, dir=str(REAL))
    assert dataset.train.x.shape == (5045, 32, 32, 3)
    np.testing.assert_array_equal(dataset.class_counts, [5, 5000] + [5] * 8)
    np.testing.assert_array_equal(np.bincount(dataset.test.y), [1000] * 10)
    # Neighbours in natural images are alike, across and down: were the planes read as pixels, only 0.75 and 0.66.
    x = dataset.test.x[::10].astype(np.float64)
    for channel in range(3):
        assert np.corrcoef(x[:, :, 1:, channel].ravel(), x[:, :, :-1, channel].ravel())[0, 1] > 0.9
        assert np.corrcoef(x[:, 1:, :, channel].ravel(), x[:, :-1, :, channel].ravel())[0, 1] > 0.9
    # Ships stand before water and sky, frogs on the ground.
    ships, frogs = (dataset.test.x[dataset.test.y == number].mean((0, 1, 2)) for number in (8, 6))
    assert ships[2] - ships[0] > 10
    assert frogs[0] - frogs[2] > 10


def write_image(path: Path, colour=(200, 100, 50), size=(40, 30), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def write_folder(root: Path, classes: dict[str, int], suffix: str = ".png") -> Path:
    """A folder of images whose red is the number of the class and whose green the number of the image."""
    for number, (name, count) in enumerate(classes.items()):
        for image in range(count):
            write_image(root / name / f"{image:03}{suffix}", (number, image, 0))
    return root


def load(path: Path | str, **options) -> Dataset:
    return data.load("images", **{"seed": 0, "path": str(path), "size": 8, **options})


class TestFolder:
    def test_split_and_labels(self, tmp_path):
        root = write_folder(tmp_path / "pets", {"cat": 10, "dog": 20, "eel": 30})
        (root / "cat" / "readme.txt").write_text("no image")
        (root / "cat" / ".hidden.png").write_text("no image")
        (root / ".thumbnails").mkdir()
        (root / "index.csv").write_text("no folder")
        dataset = load(root, validation_share=0.25)
        assert dataset.classes == ("cat", "dog", "eel")
        assert {name: np.bincount(split.y).tolist() for name, split in dataset.splits.items()} == {
            "train": [6, 12, 18],
            "validation": [2, 4, 6],
            "test": [2, 4, 6],
        }
        seen = set()
        for split in dataset.splits.values():
            assert split.x.shape[1:] == (8, 8, 3)
            assert (split.x.dtype, split.y.dtype) == (np.uint8, np.int32)
            np.testing.assert_array_equal(split.x[:, 4, 4, 0], split.y)
            seen |= {tuple(pixel) for pixel in split.x[:, 4, 4].tolist()}
        assert len(seen) == 60
        assert dataset.source == "pets"
        note = "imbalance 'none': cat 8, dog 16, eel 24, of which 0.25 is the validation part"
        assert dataset.notes == ("60 images made 8×8 pixels", note)
        np.testing.assert_array_equal(dataset.test.x, load(root).test.x)
        assert not np.array_equal(dataset.test.x, load(root, seed=1).test.x)

    def test_imbalance_is_made_in_the_training_part_alone(self, tmp_path):
        root = write_folder(tmp_path / "pets", {"cat": 20, "dog": 20, "eel": 20})
        dataset = load(root, imbalance="severe", majority_class=2)
        assert dataset.class_counts.tolist() == [5, 5, 16]
        assert np.bincount(dataset.test.y).tolist() == [4, 4, 4]
        first = load(root, imbalance="counts", counts=(1, 2, 3), first=True, test_share=0.5)
        assert first.class_counts.tolist() == [1, 2, 3]

    def test_train_and_test_folders(self, tmp_path):
        root = tmp_path / "pets"
        write_folder(root / "train", {"cat": 3, "dog": 9})
        write_folder(root / "test", {"cat": 2, "dog": 1})
        (root / "spare").mkdir()
        dataset = load(root)
        assert dataset.classes == ("dog", "cat")  # of two the rarer is number 1
        assert dataset.class_counts.tolist() == [9, 3]
        assert dataset.test.y.tolist() == [1, 1, 0]
        assert dataset.test.x[:, 0, 0, 0].tolist() == [0, 0, 1]
        assert "folders beside train and test left out: spare" in dataset.notes
        assert "the positive class (number 1) is 'cat', the rarer of the two" in dataset.notes

    def test_formats_modes_and_depth(self, tmp_path):
        root, colour = tmp_path / "any", (200, 100, 50)
        quality = {".jpg": {"quality": 95}, ".webp": {"lossless": True}}
        for suffix in (".png", ".bmp", ".jpeg", ".JPG", ".webp"):
            path = root / "a" / "deep" / "deeper" / f"rgb{suffix}"
            write_image(path, colour, **quality.get(suffix.lower(), {}))
        modes = root / "b"
        modes.mkdir()
        Image.new("L", (9, 9), 120).save(modes / "1_grey.png")
        Image.fromarray(np.full((9, 9), 120 * 256, np.uint16)).save(modes / "2_grey16.png")
        Image.new("RGBA", (9, 9), (*colour, 128)).save(modes / "3_rgba.png")
        Image.new("LA", (9, 9), (120, 0)).save(modes / "4_la.png")
        palette = Image.new("RGB", (9, 9), colour).quantize()
        palette.save(modes / "5_palette.png", transparency=bytes([0]))
        x = images.read_folder(root, size=4).x
        assert x.shape == (10, 4, 4, 3)
        assert np.abs(x[:5].astype(int) - colour).max() <= 3
        grey, rgb = [120] * 3, [*colour]
        assert x[5:, 1, 1].tolist() == [grey, grey, rgb, grey, rgb]

    def test_the_middle_is_kept_and_shrinking_is_antialiased(self, tmp_path):
        wide = np.zeros((64, 128, 3), np.uint8)
        wide[:, :32] = wide[:, 96:] = 255  # what is cut off
        wide[::2, 32:96, 1] = 200  # stripes of a pixel
        Image.fromarray(wide).save(tmp_path / "wide.png")
        Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
        x = images.decode([tmp_path / "wide.png", tmp_path / "tall.png"], size=8)
        assert x[:, 1:-1, 1:-1, 0].max() == 0
        assert x[..., 0].max() < 30  # the edge has a little of its neighbours, as if all were resized and then cropped
        assert np.abs(x[..., 1].astype(int) - 100)[:, 1:-1, 1:-1].max() <= 3  # and neither 0 nor 200
        enlarged = images.decode([tmp_path / "wide.png"], size=100)
        assert enlarged.shape == (1, 100, 100, 3)

    def test_large_jpeg_and_orientation(self, tmp_path):
        photo = np.zeros((1000, 1000, 3), np.uint8)
        photo[:500] = 250  # the upper half
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: to be rotated by 90° clockwise
        Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=exif, quality=95)
        image = images.decode([tmp_path / "photo.jpg"], size=10)[0]
        assert image[:, :4].max() <= 3
        assert image[:, 6:].min() >= 247

    def test_data_folder_and_working_directory(self, tmp_path, monkeypatch):
        write_folder(tmp_path / "pets", {"cat": 5, "dog": 5})
        assert len(load("pets").train) == 8
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        write_folder(tmp_path / "work" / "pets", {"cat": 10, "dog": 10})
        assert len(load("pets").train) == 16

    def test_errors(self, tmp_path):
        with pytest.raises(UserError, match=r"config\.data\.path: name a folder of images or an \.npz file with --con"):
            load("")
        with pytest.raises(UserError, match=r"config\.data\.path='pets': there is neither /.*/pets nor .*/pets"):
            load("pets")
        (tmp_path / "pets.zip").write_text("")
        with pytest.raises(
            UserError, match=r"config\.data\.path='pets\.zip': a folder of images or an \.npz file is n"
        ):
            load("pets.zip")
        root = tmp_path / "pets"
        write_image(root / "1.png")
        with pytest.raises(UserError, match=r"pets has no folder for a class: put the images of each class into a fol"):
            load(root)
        write_folder(root, {"cat": 5})
        with pytest.raises(UserError, match=r"pets has only the class 'cat': at least two are needed"):
            load(root)
        (root / "dog").mkdir()
        with pytest.raises(
            UserError, match=r"pets/dog holds no image \(\.bmp \.jpeg .*\): add some or remove the folder"
        ):
            load(root)
        write_folder(root, {"dog": 1})
        with pytest.raises(UserError, match=r"class 'dog' has only 1 example"):
            load(root)
        with pytest.raises(UserError, match=r"config\.data\.size=0: at least 1 pixel is needed"):
            load(root, size=0)

    def test_damaged_images(self, tmp_path):
        root = write_folder(tmp_path / "pets", {"cat": 5, "dog": 5})
        (root / "dog" / "001.png").write_text("no image")
        with pytest.raises(
            UserError, match=r"dog/001\.png is no readable image \(UnidentifiedImageError\): repair, rep"
        ):
            load(root)
        whole = write_image(root / "cat" / "003.jpg", size=(300, 300)).read_bytes()
        (root / "cat" / "003.jpg").write_bytes(whole[: len(whole) // 2])
        (root / "dog" / "004.png").write_bytes(b"")
        with pytest.raises(
            UserError, match=r"cat/003\.jpg is no readable image \(OSError\), and 2 more are not: repai"
        ):
            load(root)

    def test_test_folder_that_does_not_fit(self, tmp_path):
        root = tmp_path / "pets"
        write_folder(root / "train", {"cat": 3, "dog": 9, "eel": 3})
        write_folder(root / "test", {"cat": 2, "dog": 1, "fox": 1})
        with pytest.raises(UserError, match=r"pets: class 'fox' has test images and no training image: add some, or"):
            load(root)
        write_folder(root / "train", {"fox": 3})
        with pytest.raises(UserError, match=r"class 'eel' has no test example"):
            load(root)
        (root / "train" / "gnu").mkdir()
        with pytest.raises(UserError, match=r"pets/train/gnu holds no image"):
            load(root)


class TestNpz:
    def save(self, folder: Path, **arrays) -> Path:
        np.savez(folder / "own.npz", **arrays)
        return folder / "own.npz"

    def test_split_strings_and_greyscale(self, tmp_path):
        x = np.arange(30, dtype=np.uint8)[:, None, None] + np.zeros((30, 5, 5), np.uint8)
        y = np.array(["left", "right", "up"])[np.arange(30) % 3]
        dataset = load(self.save(tmp_path, x=x, y=y))
        assert dataset.classes == ("left", "right", "up")
        assert dataset.train.x.shape == (24, 5, 5, 1)  # no resizing, whatever the size
        for split in dataset.splits.values():
            np.testing.assert_array_equal(split.x[:, 0, 0, 0] % 3, split.y)

    def test_given_test_images_floats_and_class_names(self, tmp_path):
        x = np.linspace(-1, 1, 10 * 4 * 4 * 2).reshape(10, 4, 4, 2)
        y = np.array([0, 1, 1, 2, 2, 2, 0, 1, 2, 0])
        arrays = {
            "x": x,
            "y": y[:, None],
            "x_test": x[:3],
            "y_test": y[[0, 1, 3]],
            "classes": np.array(["z", "b", "a"]),
        }
        dataset = load(self.save(tmp_path, **arrays))
        assert dataset.classes == ("z", "b", "a")
        assert dataset.train.x.dtype == np.float32
        np.testing.assert_array_equal(dataset.train.x, x.astype(np.float32))
        assert dataset.train.y.tolist() == y.tolist()
        assert dataset.test.y.tolist() == [0, 1, 2]

    def test_of_two_classes_the_rarer_is_number_1(self, tmp_path):
        y = np.arange(20) < 5  # number 1 of `classes` is the rarer already, then the more frequent
        x = np.zeros((20, 4, 4), np.uint8)
        names = np.array(["sick", "well"])
        dataset = load(self.save(tmp_path, x=x, y=y.astype(int), classes=names))
        assert dataset.classes == ("sick", "well")
        dataset = load(self.save(tmp_path, x=x, y=1 - y, classes=names))
        assert dataset.classes == ("well", "sick")
        assert dataset.class_counts.tolist() == [12, 4]
        assert "the positive class (number 1) is 'sick', the rarer of the two" in dataset.notes

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y": None}, r"own\.npz has no array y \(it has x\): save it under this name"),
            ({"x_test": np.zeros((3, 4, 4), np.uint8)}, r"own\.npz has no array y_test \(it has x, y, x_test\)"),
            ({"y": np.arange(9)}, r"own\.npz: x has 10 images and y is \(9,\): a label for each is needed"),
            ({"y": np.zeros(10, int)}, r"own\.npz has only the class '0': at least two are needed"),
            ({"y": np.linspace(0, 1, 10)}, r"own\.npz: y is float64: strings or whole numbers are needed"),
            ({"y": np.array([None] * 10)}, r"own\.npz cannot be read as arrays: it is no \.npz file, or holds Python"),
            ({"x": np.zeros((10, 4, 5))}, r"own\.npz: x is \(10, 4, 5\), square images \[n, side, side\] or .* are"),
            ({"x": np.zeros((10, 16))}, r"own\.npz: x is \(10, 16\), square images"),
            ({"x": np.zeros((10, 4, 4), int)}, r"own\.npz: x is int64: save it as uint8 \(0 to 255\) or floating"),
            ({"x": np.where(np.arange(10) < 7, 0, np.nan)[:, None, None] + np.zeros((4, 4))},
             r"own\.npz: 3 images in x have values that are not finite, the first is number 7: replace or remove"),
            ({"x_test": np.zeros((2, 3, 3), np.uint8), "y_test": np.arange(2)}, r"x_test and y_test are uint8 \(2, 3"),
            ({"x_test": np.zeros((2, 4, 4), np.uint8), "y_test": np.array([0, 7])}, r"class '7' has test images an"),
            ({"classes": np.array(["a", "b", "c"])}, r"classes names 3 classes, so y must hold the numbers 0 to 2, e"),
        ],
    )  # fmt: skip
    def test_errors(self, tmp_path, changes, message):
        arrays = {"x": np.zeros((10, 4, 4), np.uint8), "y": np.arange(10) % 2, **changes}
        path = self.save(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
        with pytest.raises(UserError, match=message):
            load(path)

    def test_files_that_are_no_npz(self, tmp_path):
        path = tmp_path / "own.npz"
        whole = self.save(tmp_path, x=np.zeros((10, 4, 4), np.uint8), y=np.arange(10)).read_bytes()
        single = io.BytesIO()
        np.save(single, np.zeros(3))
        for content in (b"", b"text", whole[:-50], single.getvalue(), pickle.dumps({"x": 1})):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"own\.npz cannot be read as arrays: "):
                load(path)


def test_config_names_the_options_of_the_loader(tmp_path):
    config: Any = images_config.get_config()
    path = write_folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    config.data.path = str(path)
    dataset = data.load("images", seed=0, **config.data)
    assert dataset.train.x.shape == (8, 32, 32, 3)
    assert (config.task, images_config.get_config("erm").updates) == ("images", 2000)


def test_origins_name_cifar10():
    assert sources.ORIGINS["CIFAR-10"] == "https://www.cs.toronto.edu/~kriz/cifar.html"
