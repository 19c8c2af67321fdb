"""Every row of configs/cifar10.py, from files to scores; the real images, where they are."""

import json
import math
import os
import pathlib

import numpy as np
import pytest

from configs import cifar10 as cifar10_config
from configs import few_images as few_images_config
from mbjax import config as config_lib
from mbjax import train
from mbjax.data.images import cifar10
from mbjax.types import UserError

REAL = pathlib.Path(os.environ.get("MBJAX_DATA_DIR") or "nowhere")
N = 100  # images of a file: 50 training images and 10 test images of each class


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The binary layout with few images, each class of a brightness of its own."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", N)
    rng = np.random.default_rng(0)
    out = tmp_path / "cifar-10-batches-bin"
    out.mkdir()
    labels = np.arange(N) % 10
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        pixels = np.clip(25 * labels[:, None] + rng.normal(0, 20, (N, 3072)), 0, 255)
        (out / name).write_bytes(np.column_stack([labels, pixels]).astype(np.uint8).tobytes())
    return tmp_path


def tiny(name: str, folder: pathlib.Path):
    config = cifar10_config.get_config(name)
    config.data.dir = str(folder)
    config.model.update(width=2, stages=(1,))
    config.meta.steps = 2
    config.updates, config.updates_per_call, config.eval.every = 4, 4, 4
    config.m2m.steps = 2
    return config


@pytest.mark.parametrize("row", cifar10_config.ROWS)
def test_every_row_trains_and_scores(row, folder):
    result = train.train_and_evaluate(tiny(f"severe,{row}", folder), folder / "run")
    assert result["data"]["class_counts"]["train"] == [5, 50, 5, 5, 5, 5, 5, 5, 5, 5]
    test = result["test"]
    assert len(test["class_accuracy"]) == 10
    assert test["majority_accuracy"] == test["class_accuracy"][1]
    assert test["minority_accuracy"] == pytest.approx(np.delete(test["class_accuracy"], 1).mean())
    assert test["accuracy"] == pytest.approx(test["balanced_accuracy"])  # as many test images of each class
    assert np.isfinite(test["log_loss"])
    last = json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert math.isfinite(last["updates"]["loss"])


def test_the_papers_settings(folder):
    severe, moderate = (cifar10_config.get_config(name) for name in ("severe", "moderate,class_balanced"))
    assert (severe.model.width, severe.model.stages, severe.meta.steps) == (64, (2, 2, 2, 2), 80)
    assert (severe.support.batch_size, severe.query.batch_size, severe.meta.inner_lr) == (20, 30, 0.01)
    assert (moderate.data.imbalance, moderate.loss.beta, moderate.optimizer.lr) == ("moderate", 0.99, 0.02)
    for row, mix, probability in (
        ("cutmix", "cutmix", 0.5),
        ("over_cutmix", "cutmix", 0.5),
        ("over_mixup", "mixup", 1),
    ):
        stream = cifar10_config.get_config(f"severe,{row}").train
        assert (stream.mix, stream.mix_alpha, stream.mix_probability) == (mix, 1, probability)
    # 350 passes over the over-sampled data, which is as large as the balanced data: 50,000 images on CIFAR-10.
    severe.data.dir = str(folder)
    assert train.build(config_lib.validate(severe)).updates == math.ceil(350 * 10 * 50 / (80 * 30))


@pytest.mark.parametrize("row", ["balanced", "metabalance", "ldam_drw"])
def test_rows_behind_a_scattering_transform_train_on_features_and_read_as_many_images(
    row,
    folder,
):
    config = cifar10_config.get_config(f"scatter_moderate,{row}")
    config.data.update(dir=str(folder), imbalance="counts", counts=(2, 20, *[2] * 8))
    experiment = train.build(config_lib.validate(config))
    read = [math.prod(shape) for shape in experiment.shapes.values()]
    assert experiment.updates * sum(read) == 48_000
    assert {stream.x.shape for stream in experiment.streams.values()} == {(2 * 38, 4, 4, 243)}


@pytest.mark.parametrize("row", few_images_config.ROWS)
def test_ablations_of_the_recipe_change_what_they_say_and_read_as_many_images(row):
    config = few_images_config.get_config(f"moderate,{row}")
    config_lib.validate(config)
    recipe = cifar10_config.get_config("scatter_moderate,balanced")
    pairs = config.method == "metabalance"
    sizes = [config.support.batch_size, config.query.batch_size] if pairs else [config.train.batch_size]
    assert config.updates * sum(sizes) * (config.meta.steps if pairs else 1) == 48_000
    if not pairs:
        known = {**few_images_config.ROWS[row], "updates": config.updates, "eval.every": config.updates}
        recipe.update_from_flattened_dict(known)
        assert config.to_dict() == recipe.to_dict()
    assert few_images_config.get_config("severe").optimizer.weight_decay == 0.08


@pytest.mark.parametrize("row", cifar10_config.ROWS)
def test_every_row_of_the_small_scenario_reads_as_many_images(row, folder):
    config = cifar10_config.get_config(f"small,{row}")
    config.data.dir = str(folder)
    if config.clean.share == 0.002:
        config.clean.share = 0.11
    experiment = train.build(config_lib.validate(config))
    shapes = experiment.shapes
    read = [math.prod(shape) for name, shape in shapes.items() if name != "pretrain"]  # m2m's: one of two an update
    assert experiment.updates * sum(read) == 48_000
    assert experiment.model.stem_stride == 2


def test_the_authors_protocol_is_marked_and_is_another(folder):
    config = tiny("severe,naive", folder)
    config.eval.protocol = "authors"
    authors = train.train_and_evaluate(config, folder / "authors")
    clean = train.train_and_evaluate(tiny("severe,naive", folder), folder / "clean")
    assert (authors["protocol"], clean["protocol"]) == ("authors", "clean")
    assert authors["test"]["log_loss"] != clean["test"]["log_loss"]


def test_an_unknown_row_is_named():
    with pytest.raises(UserError, match=r"cifar10.py:severe,smote: 'smote' is none of metabalance, naive"):
        cifar10_config.get_config("severe,smote")


@pytest.mark.skipif(not (REAL / "cifar-10-batches-bin").exists(), reason="CIFAR-10 is not in MBJAX_DATA_DIR")
def test_real_images_train(tmp_path):
    config = tiny("severe", REAL)
    config.updates, config.eval.every = 20, 10
    result = train.train_and_evaluate(config, tmp_path)
    assert result["data"]["class_counts"]["train"] == [5, 5000, *[5] * 8]
    losses = [
        json.loads(line)["updates"]["query_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]
