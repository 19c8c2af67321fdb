"""Coverage-guided fuzzing of what reads files: `readers.py READER [CORPUS FOLDER] [libFuzzer's options]`.

    pip install --target=/tmp/atheris atheris
    PYTHONPATH=/tmp/atheris .venv/bin/python tests/robustness/readers.py csv -max_total_time=60

READER is csv, npz, model or config. The reader takes any bytes to a result or to a `UserError`; whatever else it raises
ends the fuzzing, with the bytes in a file `crash-…`. Without a corpus it starts from a valid file.
"""

import importlib
import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["mbjax"], enable_loader_override=False):
    import mbjax
    from mbjax import config as config_lib
    from mbjax.data.arrays import Arrays
    from mbjax.data.images import labelled
    from mbjax.data.tables import tabular
    from mbjax.predict import Predictor, files
    from mbjax.train.folder import Folder
    from mbjax.types import UserError

PLACE = pathlib.Path(tempfile.mkdtemp(prefix="mbjax-readers-"))
CSV = b"a,b,y\n" + b"1,x,0\n2,,1\n" * 20


def read_csv(content: bytes) -> None:
    file = PLACE / "a.csv"
    file.write_bytes(content)
    frame = tabular.read_table(file)
    tabular.from_frame(frame, str(frame.columns[-1]), source="a.csv", seed=0)


def read_npz(content: bytes) -> None:
    (PLACE / "a.npz").write_bytes(content)
    labelled.read_npz(PLACE / "a.npz")


def read_model(content: bytes) -> None:
    """`model.json`, which is given its digest: else nothing that was changed would be read any further."""
    folder = PLACE / "model"
    try:
        about = json.loads(content)
        about["digest"] = files._digest(about)
        content = json.dumps(about).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    (folder / files.ABOUT).write_bytes(content)
    mbjax.load(folder).predict(np.zeros((2, 3), np.float32))


def read_config(content: bytes) -> None:
    folder = Folder(PLACE / "run")
    folder.config.write_bytes(content)
    folder.result.write_text("{}")  # else a damaged configuration is set aside, again and again
    folder.claim(VALID, 30)


def make_model() -> bytes:
    import jax

    from mbjax import models

    model = {"name": "mlp", "hidden": (4,), "outputs": 1}
    x = np.zeros((1, 3), np.float32)
    variables = jax.tree.map(np.asarray, models.build(**model).init(jax.random.key(0), x, train=False))
    half = np.array([0.5, 0.5])
    Predictor(model, variables, Arrays((3,), "float32"), ("no", "yes"), half, half).save(PLACE / "model")
    about = json.loads((PLACE / "model" / files.ABOUT).read_text())
    del about["digest"]
    return json.dumps(about).encode()


def make_npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, x=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), y=np.array(["a", "b", "a"]))
    return content.getvalue()


def make_config() -> bytes:
    (PLACE / "run").mkdir()
    Folder(PLACE / "run").claim(VALID, 30)
    return (PLACE / "run/config.json").read_bytes()


VALID = config_lib.validate(config_lib.base())
READERS: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {
    "csv": (read_csv, lambda: CSV),
    "npz": (read_npz, make_npz),
    "model": (read_model, make_model),
    "config": (read_config, make_config),
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(__doc__)
    read, make = READERS[sys.argv.pop(1)]
    seeds = PLACE / "seeds"
    seeds.mkdir()
    (seeds / "valid").write_bytes(make())
    read((seeds / "valid").read_bytes())

    def one(content: bytes) -> None:
        try:
            read(content)
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError(f"several lines: {error}") from None

    given = any(not argument.startswith("-") for argument in sys.argv[1:])
    atheris.Setup([*sys.argv, *([] if given else [str(seeds)])], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
