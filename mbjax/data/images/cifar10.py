"""`cifar10`: CIFAR-10 (Krizhevsky 2009) in any of its published layouts, made imbalanced as in the paper."""

import io
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbjax.data import imbalance as imbalance_lib
from mbjax.data import sources, splits
from mbjax.data.images.labelled import read_arrays
from mbjax.data.imbalance import imbalanced_parts
from mbjax.options import TEXT, Option
from mbjax.types import Dataset, Split, UserError, first_line

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = {"moderate_authors": (31, 5000, 46, 37, 6, 14, 43, 16, 41, 19)}  # in the code of the paper's authors
IMAGES_PER_FILE = 10_000  # five files of training images, one of test images
_PIXELS = 3 * 32 * 32
_AGAIN = f"get it again from {sources.ORIGINS['CIFAR-10']}"


class Parts(NamedTuple):
    """Everything that a layout holds, in the official order; images are uint8 `[n, 32, 32, 3]`."""

    train: Split
    test: Split


OPTIONS = (  # of config.data
    sources.DIR_OPTION,
    Option("source", "auto", TEXT, "the layout of the files: binary, python, npz, tfds, or auto for what is there"),
    *imbalance_lib.options("severe", majority_class=1),
    splits.VALIDATION_SHARE,
)


def load(
    *,
    seed: int,
    dir: str = "",
    source: str = "auto",
    imbalance: str = "severe",
    majority_class: int = 1,
    counts: Sequence[int] = (),
    ratio: float = 100.0,
    minority_counts: Sequence[int] = (5, 50),
    first: bool = False,
    validation_share: float = 0.0,
) -> Dataset:
    """Loads CIFAR-10 with an imbalanced training part; the test part is all 10,000 test images.

    Args:
      seed: of all draws. The same seed draws the same images from every layout.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      source: the layout: a key of `LAYOUTS`, or `"auto"` for the first of them that is there. `"tfds"` downloads and
        prepares the data set if it is not there.
      imbalance: `"severe"`, `"moderate"`, `"moderate_authors"`, `"long_tail"`, `"counts"` or `"none"`; what they are
        and what `majority_class`, `counts`, `ratio` and `minority_counts` do says
        `mbjax.data.imbalance.class_counts`.
      first: takes the first images of each class in the official order, as the paper's authors do, not drawn ones.
      validation_share: of the imbalanced training part, held out with each class's share kept.

    Returns:
      `x` `[n, 32, 32, 3]` uint8.

    Raises:
      UserError: no data, a file that is not the official one, or an imbalance that cannot be made.
    """
    layout, path = _locate(source, dir)
    if path is None:
        path = prepare_tfds(sources.data_dir(dir))
    train, test = LAYOUTS[layout].read(path, images=IMAGES_PER_FILE)
    name = f"cifar10/{path.name}" if layout == "tfds" else path.name
    parts, note = imbalanced_parts(
        train.y, CLASSES, seed=seed, source=name, imbalance=imbalance, majority_class=majority_class, counts=counts,
        ratio=ratio, minority_counts=minority_counts, first=first, validation_share=validation_share,
        published=PUBLISHED,
    )  # fmt: skip
    splits = {part: Split(train.x[index], train.y[index]) for part, index in parts.items()}
    notes = (f"CIFAR-10 in the layout {layout!r}", note)
    return Dataset({**splits, "test": test}, CLASSES, source=name, notes=notes)


def _locate(source: str, dir: str) -> tuple[str, Path | None]:
    """The layout and the file or folder that `source` names; no path where TFDS has yet to prepare it."""
    if source not in ("auto", *LAYOUTS):
        raise UserError(f"config.data.source={source!r}: choose one of auto, {', '.join(LAYOUTS)}")
    folder = sources.data_dir(dir)
    wanted = [name for name in LAYOUTS if source in ("auto", name)]
    for layout in wanted:
        for name in LAYOUTS[layout].names:
            if found := sorted(folder.glob(name)):
                return layout, found[-1].parent if layout == "tfds" else found[-1]
    if source == "tfds":
        return source, None
    names = [name for layout in wanted for name in LAYOUTS[layout].names if layout != "tfds"]
    raise sources.missing(names, folder, "CIFAR-10")


def read_binary(path: Path, *, images: int) -> Parts:
    """Reads the official binary layout: for each image a byte of its label and 3,072 of its pixels, red plane first.

    Args:
      path: the folder `cifar-10-batches-bin` or the archive `cifar-10-binary.tar.gz`.
      images: the images that each file must hold, in this and the other readers; a multiple of 10.

    Raises:
      UserError: a file that is missing, cut off or not the official one, as of the other readers.
    """
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    batches = []
    for name, data in _members(path, "cifar-10-batches-bin", names).items():
        size = images * (1 + _PIXELS)
        if len(data) != size:
            raise UserError(
                f"{path / name} has {len(data)} bytes, {size} are needed ({images} images of {1 + _PIXELS}): it is "
                f"cut off or not the official file, {_AGAIN}"
            )
        records = np.frombuffer(data, np.uint8).reshape(images, 1 + _PIXELS)
        batches.append(_batch(records[:, 1:], records[:, 0], path / name))
    return _parts(batches, images=images, path=path)


def read_python(path: Path, *, images: int) -> Parts:
    """Reads the official pickles, letting nothing but arrays out of them.

    Args:
      path: the folder `cifar-10-batches-py` or the archive `cifar-10-python.tar.gz`.
      images: see `read_binary`.
    """
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    batches = []
    for name, data in _members(path, "cifar-10-batches-py", names).items():
        batch = _unpickle(data, path / name)
        pixels, labels = (batch.get(key, batch.get(key.encode())) for key in ("data", "labels"))
        if not isinstance(pixels, np.ndarray) or pixels.shape != (images, _PIXELS) or pixels.dtype != np.uint8:
            raise UserError(
                f"{path / name}: 'data' is {_shown(pixels)}, uint8 ({images}, {_PIXELS}) is needed: it is not the "
                f"official file, {_AGAIN}"
            )
        if not isinstance(labels, list) or len(labels) != images or not all(type(n) is int for n in labels):
            raise UserError(
                f"{path / name}: 'labels' is not a list of {images} whole numbers: it is not the "
                f"official file, {_AGAIN}"
            )
        batches.append(_batch(pixels, labels, path / name))
    return _parts(batches, images=images, path=path)


def read_npz(path: Path, *, images: int) -> Parts:
    """Reads `x_train`, `y_train`, `x_test` and `y_test`, images `[n, 32, 32, 3]` uint8 and labels `[n]` or `[n, 1]`.

    Args:
      path: the file.
      images: see `read_binary`: x_train holds five times as many, x_test as many.
    """
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = read_arrays(path)
    if lacking := [name for name in names if name not in arrays]:
        raise UserError(f"{path} has no array {', '.join(lacking)} (it has {', '.join(arrays)}): save all of {names}")
    parts = []
    for part, n in (("train", 5 * images), ("test", images)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.shape != (n, 32, 32, 3) or x.dtype != np.uint8:
            raise UserError(f"{path}: x_{part} is {_shown(x)}, uint8 {(n, 32, 32, 3)} is needed: save it so")
        if y.shape not in ((n,), (n, 1)) or y.dtype.kind not in "iu":
            raise UserError(f"{path}: y_{part} is {_shown(y)}, whole numbers {(n,)} are needed: save it so")
        parts.append(Split(x, _labels(y.reshape(n), path)))
    return _checked(Parts(*parts), images=images, path=path)


def read_tfds(path: Path, *, images: int) -> Parts:
    """Reads what TensorFlow Datasets prepared in a format with random access, without TensorFlow.

    Args:
      path: the folder of one version, `cifar10/3.0.2`.
      images: see `read_binary`.
    """
    tfds, splits = _tfds(), []
    try:
        parts = tfds.builder_from_directory(path).as_data_source(split=None)
        for part, n in (("train", 5 * images), ("test", images)):
            if len(parts[part]) != n:
                raise ValueError(f"it has {len(parts[part])} {part} images, {n} are needed")
            # TFDS shuffles; the ids tell the official order, so that a seed draws the same images from every layout.
            examples = sorted((parts[part][k] for k in range(n)), key=lambda example: example["id"])
            x, y = (np.array([example[name] for example in examples]) for name in ("image", "label"))
            splits.append(Split(x, _labels(y, path)))
    except UserError:
        raise
    except Exception as error:  # as in prepare_tfds
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path} cannot be read ({reason}): move it away and choose --config.data.source=tfds to prepare it anew, "
            'or prepare it with file_format="array_record"'
        ) from error
    return _checked(Parts(*splits), images=images, path=path)


def prepare_tfds(folder: Path) -> Path:
    """Downloads CIFAR-10 with TensorFlow Datasets, which needs TensorFlow for it, into the data folder.

    Returns:
      The folder for `read_tfds`.
    """
    tfds = _tfds()
    try:
        builder = tfds.builder("cifar10", data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # TFDS's errors have no common type, and the way out is the same
        reason = str(error).strip().split("\n")[-1]
        raise UserError(
            f"tensorflow-datasets cannot prepare cifar10 in {folder} ({reason}): check the network, pip install "
            f"tensorflow (for this step only), or get another layout from {sources.ORIGINS['CIFAR-10']}"
        ) from error
    return Path(builder.data_path)


def _tfds() -> Any:
    try:
        import tensorflow_datasets  # not at the top: an optional extra
    except ImportError as error:
        raise UserError(
            f"config.data.source='tfds' needs tensorflow-datasets ({error}): pip install 'mbjax[tfds]', or choose "
            "another layout with --config.data.source"
        ) from None
    return tensorflow_datasets


_MEMBER_BYTES = 2**26  # of a file in an archive; the official ones have half as many


class Layout(NamedTuple):
    """How CIFAR-10 is stored: what to look for in the data folder, best first, and what reads it."""

    names: tuple[str, ...]
    read: Callable[..., Parts]


LAYOUTS: dict[str, Layout] = {
    "binary": Layout(("cifar-10-batches-bin", "cifar-10-binary.tar.gz"), read_binary),
    "python": Layout(("cifar-10-batches-py", "cifar-10-python.tar.gz"), read_python),
    "npz": Layout(("cifar10.npz",), read_npz),
    "tfds": Layout(("cifar10/*/dataset_info.json",), read_tfds),
}


def _members(path: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of the named files, in that order, of a folder or of `folder` in a .tar.gz."""
    found: dict[str, bytes] = {}
    try:
        if path.is_dir():
            found = {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
        else:
            with tarfile.open(path, "r:gz") as archive:
                for member in archive:  # one pass, for a compressed archive cannot go back
                    parent, _, name = member.name.removeprefix("./").rpartition("/")
                    # A link could lead anywhere, to itself too.
                    if parent == folder and name in names and member.isreg() and (file := archive.extractfile(member)):
                        if member.size > _MEMBER_BYTES:
                            raise tarfile.TarError(f"{name} would be {member.size:,} bytes")
                        found[name] = file.read()
    except Exception as error:  # whatever a damaged archive makes them raise
        raise UserError(f"{path} cannot be read ({first_line(error)}): {_AGAIN}") from None
    if lacking := [name for name in names if name not in found]:
        raise UserError(f"{path} has no {', '.join(lacking)}: unpack it anew, or {_AGAIN}")
    return {name: found[name] for name in names}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, numbers, text and containers of them. A pickle can name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy.core", "numpy._core", 1), name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r}")
        return allowed


def _dtype(name: Any, align: Any = False, copy: Any = False) -> np.dtype:
    """`np.dtype` as old pickles call it: with 0 and 1 for its flags, which NumPy deprecates."""
    return np.dtype(name, bool(align), bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, with which Python 3 writes bytes for Python 2; no other codec is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    # NumPy's own names for what rebuilds an array are private: an array tells which they are.
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


def _unpickle(data: bytes, where: Path) -> dict[Any, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(
            f"{where} is no pickle of arrays alone ({error}): it is not the official file, {_AGAIN}"
        ) from None
    if not isinstance(batch, dict):
        raise UserError(
            f"{where} holds a {type(batch).__name__}, a dict is needed: it is not the official file, {_AGAIN}"
        )
    return batch


def _batch(pixels: np.ndarray, labels: Any, where: Path) -> Split:
    """Images `[n, 32, 32, 3]` from rows of 1,024 red, 1,024 green and 1,024 blue values."""
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(images, _labels(np.asarray(labels), where))


def _labels(labels: np.ndarray, where: Path) -> np.ndarray:
    for index in np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))[:1]:
        raise UserError(
            f"{where}: the label of image {index} is {labels[index]}, 0 to {len(CLASSES) - 1} is needed: it is not "
            f"the official file, {_AGAIN}"
        )
    return labels.astype(np.int32)


def _parts(batches: Sequence[Split], *, images: int, path: Path) -> Parts:
    *train, test = batches
    # One copy of the whole: what comes here are views of the files' bytes, planes first.
    x = np.concatenate([batch.x for batch in train])
    y = np.concatenate([batch.y for batch in train])
    return _checked(Parts(Split(x, y), Split(np.ascontiguousarray(test.x), test.y)), images=images, path=path)


def _checked(parts: Parts, *, images: int, path: Path) -> Parts:
    for part, split, n in zip(("training", "test"), parts, (5 * images, images), strict=True):
        each = n // len(CLASSES)
        for name, count in zip(CLASSES, np.bincount(split.y, minlength=len(CLASSES)), strict=True):
            if count != each:
                raise UserError(
                    f"{path}: class {name!r} has {count} {part} images, {each} are needed: it is not the official "
                    f"data, {_AGAIN}"
                )
    return parts


def _shown(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
