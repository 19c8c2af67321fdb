"""Event files for TensorBoard, read back: every score of `metrics.jsonl`, and the figures."""

import json
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from mbjax import config as config_lib
from mbjax import train
from mbjax.report import tensorboard
from mbjax.types import UserError


def settings(updates: int = 4):
    config = config_lib.base()
    config_lib.change(config, {"method": "erm", "model.hidden": (4,), "eval.every": 2, "updates": updates})
    return config


def events(run):
    """The values of all events of a run, `(step, tag, value)`: the files' framing read by hand."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted((run / tensorboard.FOLDER).iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = proto.Event.FromString(content[12 : 12 + length])
            found += [(event.step, value.tag, value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_a_runs_scores_are_scalars_and_its_figures_images(tmp_path):
    pytest.importorskip("tensorboardX")
    train.train_and_evaluate(settings(), tmp_path, tensorboard=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scalars = {(step, tag): value.simple_value for step, tag, value in events(tmp_path)}
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        for part in ("updates", "train", "test"):
            numbers = {name: value for name, value in row[part].items() if isinstance(value, float)}
            assert numbers
            for name, value in numbers.items():
                assert scalars[row["step"], f"{part}/{name}"] == pytest.approx(value, rel=1e-6), (part, name)
    # A finished run gets them again, with the figures that its page has by then.
    (tmp_path / "figures").mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "figures" / "curve.png")
    train.train_and_evaluate(settings(), tmp_path, tensorboard=True)
    written = events(tmp_path)
    assert {(step, tag) for step, tag, _ in written} == {*scalars, (4, "figures/curve")}
    assert len(written) == len(scalars) + 1  # each once
    (image,) = [value.image for _, tag, value in written if tag == "figures/curve"]
    assert (image.height, image.width) == (5, 7)


def test_without_the_package_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"--tensorboard needs tensorboardX \(.*\): pip install 'mbjax\[tensorboard\]'"):
        train.train_and_evaluate(settings(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
