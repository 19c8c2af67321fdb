"""Files that were made to break what reads them, and files that broke it: each is a named case."""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import struct
import tarfile
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mbjax.data import sources
from mbjax.data.images import cifar10, host_images, labelled
from mbjax.data.tables import table_files, table_reader, tabular, unpacked
from mbjax.data.tables.columns import TableColumns
from mbjax.options import SEED
from mbjax.predict import tables as predict_tables
from mbjax.sampling import make_stream
from mbjax.train import loop
from mbjax.types import Split, UserError

TABLE = ("x,y\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(200))).encode()


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
def test_a_damaged_compressed_table_is_one_line(ending, damage, tmp_path):
    file, content = tmp_path / f"a.csv{ending}", bytearray(COMPRESS[ending](TABLE))
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
        content[-5] ^= 255
    else:
        content = b"no such thing"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"^\S+ cannot be read as a table: [^\n]+$"):
        tabular.read_table(file)


PACKERS = (".csv.gz", ".csv.xz", ".csv.bz2", ".csv.zip", ".csv.tar.gz")


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("content", ["many rows", "one endless value"])
def test_a_small_file_that_unpacks_to_more_than_memory_is_refused_before(ending, content, tmp_path, monkeypatch):
    file, read, free = tmp_path / f"a{ending}", [], 2**20
    rows = 2**18 if content == "many rows" else 1
    text = "x,y\n" + "1,a\n" * rows if rows > 1 else "x,y\n" + "1" * 2**22
    data = tmp_path / "a.csv"
    data.write_text(text)
    pack(data, file)
    whole = unpacked.Unpacked.read

    def counted(self: Any, size: int | None = -1, /) -> bytes:
        part = whole(self, size)
        read.append(len(part))
        return part

    monkeypatch.setattr(unpacked, "free_memory", lambda: free)
    monkeypatch.setattr(unpacked.Unpacked, "read1", counted)
    with pytest.raises(UserError, match=rf"^{file} unpacks to a table that takes 0.0 GiB of memory or more, 0.0 GiB"):
        tabular.read_table(file)
    assert sum(read) < free
    tabular.read_table(data)  # what is not compressed is as large as it looks


def pack(file: pathlib.Path, packed: pathlib.Path) -> None:
    ending = packed.suffix
    if ending == ".zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(file, file.name)
    elif ".tar" in packed.suffixes:
        with tarfile.open(packed, "w:gz") as archive:
            archive.add(file, file.name)
    else:
        packed.write_bytes(COMPRESS[ending](file.read_bytes()))


def test_a_parquet_file_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    pq.write_table(pa.table({"x": [0.0] * 10_000, "y": ["a", "b"] * 5_000}), tmp_path / "a.parquet")
    assert len(tabular.read_table(tmp_path / "a.parquet")) == 10_000
    monkeypatch.setattr(unpacked, "free_memory", lambda: 100_000)
    with pytest.raises(UserError, match=r"a.parquet unpacks to a table that takes 0.0 GiB"):
        tabular.read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_table_is_the_plain_one_also_in_chunks_that_memory_holds(ending, tmp_path, monkeypatch):
    plain, packed = tmp_path / "a.csv", tmp_path / f"b{ending}"
    plain.write_text("x,é,y\n" + "".join(f"{n / 7},{'ü' * (n % 3)},{'ab'[n % 2]}\n" for n in range(60_000)))
    pack(plain, packed)
    wanted = tabular.read_table(plain)
    pd.testing.assert_frame_equal(tabular.read_table(packed), wanted)
    columns = TableColumns.fit(wanted, numbers=["x"], categories=["é"], ignored=("y",))
    monkeypatch.setattr(unpacked, "free_memory", lambda: 2**22)  # reads are of 256 KiB, which may take 2 MiB
    frames = [frame for frame, _ in predict_tables.read(packed, columns, rows=1000)]
    assert len(frames) == 60
    assert pd.concat(frames).x.tolist() == wanted.x.tolist()
    with pytest.raises(UserError, match="unpacks to a table that takes"):
        list(predict_tables.read(packed, columns, rows=60_000))


COLUMNS: dict[str, Any] = {
    "lists": pa.array([[1], [2]] * 60),
    "structs": pa.array([{"a": 1}, {"a": 2}] * 60),
    "maps": pa.array([[("a", 1)], [("b", 2)]] * 60, pa.map_(pa.string(), pa.int64())),
    "halves": pa.array(np.array([1, 2] * 60, np.float16)),
    "binary": pa.array([b"\xff\xfe", b"a"] * 60),
    "dictionary of binary": pa.array([b"\xff", b"a"] * 60).dictionary_encode(),
    "decimals": pa.array([1, 2] * 60).cast(pa.decimal128(25, 2)),
    "durations": pa.array([1, 2] * 60, pa.duration("s")),
    "times": pa.array([1, 2] * 60, pa.time32("s")),
    "nulls": pa.nulls(120),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("place", ["target", "feature"])
@pytest.mark.parametrize("reader", ["in memory", "out of core"])
def test_every_type_of_parquet_is_used_left_out_or_named(kind, place, reader, tmp_path):
    plain = pa.array([0.0, 1.0, 2.0, 5.0] * 30)
    labels = pa.array(["a", "b", "a", "a"] * 30)
    odd = COLUMNS[kind]
    columns = {"x": plain, "y": odd} if place == "target" else {"x": odd, "z": plain, "y": labels}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    message = ""
    try:
        if reader == "in memory":
            tabular.load(seed=0, path=str(tmp_path / "a.parquet"), target="y")
        else:
            table_files.prepare(tmp_path / "a.parquet", tmp_path / "arrays", target="y", drop=())
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    if place == "feature" and reader == "in memory":
        assert message == ""  # another column is left to learn from
    if kind in ("lists", "structs", "maps") and place == "target":
        assert "y" in message or "Arrow" in message or "a.parquet" in message
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


# Archives of arrays.


def npz(file: pathlib.Path, content: bytes, **info: Any) -> pathlib.Path:
    with zipfile.ZipFile(file, "w", info.pop("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("x.npy", content)
    return file


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


HEADERS = {
    "279 GiB": header("(300000000000,)"),
    "negative": header("(-1,)"),
    "an overflow": header("(4611686018427387904, 4)"),
    "too deep": header("(" * 60 + "1" + ",)" * 60),
    "no dict": b"\x93NUMPY\x01\x00\x05\x00[1,2]",
    "no type": header("(1,)", "'nonsense'"),
    "objects": header("(1,)", "'|O'") + b"cos\nsystem\n(S'true'\ntR.",
    "no array": b"nothing of the kind",
    "a version of its own": b"\x93NUMPY\x09\x09" + bytes(20),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("reader", ["npz", "npy"])
def test_a_hostile_header_is_one_line_and_nothing_is_allocated(name, reader, tmp_path):
    if reader == "npz":
        with pytest.raises(UserError, match=r"^\S+ cannot be read as arrays: [^\n]+$"):
            labelled.read_arrays(npz(tmp_path / "a.npz", HEADERS[name] + bytes(8)))
        return
    (tmp_path / "x.npy").write_bytes(HEADERS[name] + bytes(8))
    with pytest.raises(UserError, match=r"^\S+ cannot be read as an array: [^\n]+$"):
        table_reader.header(tmp_path / "x.npy")


@pytest.mark.parametrize("damage", ["lzma", "encrypted", "unknown compression", "objects below a name", "no archive"])
def test_a_hostile_archive_is_one_line(damage, tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.arange(1000, dtype=np.int64))
    compression = zipfile.ZIP_LZMA if damage == "lzma" else zipfile.ZIP_STORED
    file = npz(tmp_path / "a.npz", whole.getvalue(), compression=compression)
    content = bytearray(file.read_bytes())
    start, central = 30 + len("x.npy"), content.index(b"PK\x01\x02")
    if damage == "lzma":
        content[start + 20 : start + 40] = bytes(20)
    elif damage == "encrypted":
        content[6] |= 1
        content[central + 8] |= 1
    elif damage == "unknown compression":
        content[8] = content[central + 10] = 77
    elif damage == "no archive":
        content = whole.getvalue()
    else:
        np.savez(file, x=np.array([{}], object))
        content = file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"^\S+ cannot be read as arrays: [^\n]+$"):
        labelled.read_arrays(file)


def test_whole_archives_are_read_as_before(tmp_path):
    arrays = {
        "x": np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "y": np.array(["a", "b", "c"]), "empty": np.empty((0, 3)),
        "number": np.array(3.5), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "fields": np.zeros(2, [("a", "i4"), ("é", "f8")]),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        read = labelled.read_arrays(tmp_path / "a.npz")
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype


@pytest.mark.parametrize("kind", ["a link out", "a link to itself", "a hard link", "a bomb", "a folder"])
def test_a_hostile_tar_is_one_line(kind, tmp_path):
    file = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        content = b""
        if kind == "a bomb":
            content = bytes(cifar10._MEMBER_BYTES + 1)
            info.size = len(content)
        else:
            info.type = {"a hard link": tarfile.LNKTYPE, "a folder": tarfile.DIRTYPE}.get(kind, tarfile.SYMTYPE)
            info.linkname = "/etc/passwd" if kind == "a link out" else info.name
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=r"^[^\n]+(would be 67,108,865 bytes|has no data_batch_1.bin)[^\n]+$"):
        cifar10._members(file, "cifar-10-batches-bin", ["data_batch_1.bin"])


# Images.


@pytest.mark.parametrize(
    "error", [RuntimeError("no codec"), struct.error("unpack"), KeyError(3), MemoryError(), IndexError()]
)
def test_whatever_a_decoder_raises_is_a_named_bad_image(error, tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(file)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(labelled.Image, "open", fail)
    with pytest.raises(UserError, match=rf"a.png is no readable image \({type(error).__name__}\)"):
        labelled.decode([file], size=4)
    assert host_images.decode([file], size=4).failed == {0: type(error).__name__}


def test_too_many_open_files_are_no_bad_image(tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(labelled.Image, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        host_images.decode([tmp_path / "a.png"], size=4)


@pytest.fixture
def prepared(tmp_path) -> pathlib.Path:
    """Five images in one file."""
    for number in range(5):
        Image.new("RGB", (4, 4), (number, 7 * number, 50)).save(tmp_path / f"{number}.png")
    host_images.prepare(sorted(tmp_path.glob("*.png")), tmp_path / "all.npy", size=4, max_bad_share=0)
    return tmp_path / "all.npy"


def open_again(path: pathlib.Path) -> host_images.PreparedImages:
    files = sorted(path.parent.glob("*.png"))
    return host_images.PreparedImages(path, digest=host_images.digest(files, size=4))


@pytest.mark.parametrize("rows", [[[0, 3], [1, 1]], slice(0, 4), np.array([2, -2])])
def test_a_changed_byte_of_a_prepared_image_is_named_when_that_image_is_read(rows, prepared):
    whole = open_again(prepared)[:]
    content = bytearray(prepared.read_bytes())
    content[128 + 3 * 48 + 5] ^= 1
    prepared.write_bytes(content)
    changed = open_again(prepared)
    for _ in range(2):  # the second time it is no better
        np.testing.assert_array_equal(changed[[4, 0, 0]], whole[[4, 0, 0]])
        with pytest.raises(UserError, match=r"^image -?[32] in \S+all.npy is not what was written there: delete it"):
            changed[rows]


def test_prepared_images_of_older_versions_have_no_checksums_and_are_read(prepared):
    beside, whole = prepared.with_suffix(".json"), open_again(prepared)[:]
    about = json.loads(beside.read_text())
    for sums in ("00", "zz", 3):
        beside.write_text(json.dumps({**about, "checksums": sums}))
        with pytest.raises(UserError, match=r"all.npy cannot be read as prepared images"):
            open_again(prepared)
    del about["checksums"]
    beside.write_text(json.dumps(about))
    np.testing.assert_array_equal(open_again(prepared)[:], whole)


# Hangs and floods, and values at the edges.


def test_evaluations_are_no_more_frequent_than_updates():
    assert loop.boundaries(50, 1e-9, 0) == list(range(1, 51))
    assert loop.boundaries(50, 1 / 50, 0) == list(range(1, 51))
    assert loop.boundaries(50, 0.1, 20) == [25, 30, 35, 40, 45, 50]


@pytest.mark.parametrize("sampler", ["over", "smote", "class_balanced"])
def test_an_absurd_number_of_examples_is_refused(sampler):
    rng = np.random.default_rng(0)
    split = Split(rng.normal(size=(100, 3)).astype(np.float32), (np.arange(100) < 20).astype(np.int32))
    options: dict[str, Any] = {"name": "train", "seed": 0, "classes": ("a", "b"), "cache_dir": None}
    with pytest.raises(UserError, match=r"10,?000,?000,?0\d\d"):
        make_stream(split, sampler=sampler, sampling_strategy={"b": 10**10}, **options)


def test_seeds_end_where_they_are_told_apart():
    assert SEED.valid(2**32 - 1)
    assert not SEED.valid(2**32)
    assert not SEED.valid(2**63)


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/a.csv", "a" * 300 + ".csv", "x" * 100_000, "a\0.csv", "a\ud800.csv"]
)
def test_a_path_that_cannot_be_is_one_line(path):
    with pytest.raises(UserError) as caught:
        sources.find_own(path, "", wanted="a file")
    assert "\n" not in str(caught.value)


def test_columns_of_one_name_are_named(tmp_path):
    pd.DataFrame([[1, 2]], columns=["1", 1]).to_csv(tmp_path / "a.csv", index=False)
    tabular.read_table(tmp_path / "a.csv")  # pandas tells them apart
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"(two columns named 'x'|cannot be read as a table)"):
        tabular.read_table(tmp_path / "a.parquet")
