"""The start without labels: its loss, what it reads, what it leaves to the method, and resuming to the bit."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from test_train import assert_same_bits, final_params

from mbjax import augment, losses, models, train
from mbjax import config as config_lib
from mbjax.methods import diet
from mbjax.train import loop, population, start
from mbjax.types import Dataset, Split, UserError


def settings(method: Any = "erm", **changes: Any):
    config = config_lib.base()
    config_lib.change(config, {"method": method, "model.name": "cnn"})
    config.model.update(channels=(4, 8), pooling="mean")
    config.data.update(minority_count=5, test_count=20)
    for name in config_lib.STREAMS:
        config[name].update(augment="crop_flip", batch_size=8)
    config.meta.steps = 2
    config.diet.update(updates=10, batch_size=32)
    config.update(updates=8, updates_per_call=4, parallel="none")
    config.eval.every = 4
    config_lib.change(config, changes)
    return config_lib.validate(config)


def images(counts: tuple[int, ...] = (30, 10), size: int = 8, seed: int = 0) -> Split:
    y = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    x = np.random.default_rng(seed).integers(0, 256, (len(y), size, size, 3)).astype(np.uint8)
    return Split(x, y)


def dataset(**changes: Any) -> Dataset:
    own: dict[str, Any] = {"splits": {"train": images(), "test": images((4, 4), seed=1)}, "classes": ("a", "b")}
    return Dataset(**{**own, "source": "noise", **changes})


def heads(params: Any) -> set[str]:
    """The names of a small network's last layer: the Dense_ of the largest number, which is all that a CNN has."""
    return {name for name in params if name.startswith("Dense_")}


def softmax_loss(features, kernel, bias, numbers, smoothing):
    """`mean_i −Σ_j q_ij log p_ij` and its gradient to the logits, `q = (1 − s) · onehot + s / n`, in NumPy."""
    z = features @ kernel + bias
    shifted = z - z.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    n = z.shape[1]
    q = (1 - smoothing) * (np.arange(n)[None] == numbers[:, None]) + smoothing / n
    return -(q * log_p).sum(1).mean(), (np.exp(log_p) - q) / len(numbers)


def test_the_loss_and_its_gradient_are_smoothed_cross_entropy_over_the_numbers_of_images(x64):
    rng = np.random.default_rng(0)
    x, numbers = rng.normal(size=(6, 5)), np.array([3, 0, 10, 7, 7, 2])
    net = diet.Numbered(models.build("mlp", outputs=3, hidden=(4,)), 11)
    given = config_lib.validate(settings()).to_dict()
    own = diet.sections({**given, "diet": {"augment": "flip", "batch_size": 6}})["loss"]
    loss = losses.build("cross_entropy", class_counts=np.ones(11), **{k: own[k] for k in ("smoothing", "class_weight")})
    params = jax.tree.map(lambda p: rng.normal(size=p.shape), net.init(jax.random.key(0), x, train=True)["params"])
    assert params.keys() == {"body", "head"}  # the body's own head is none of it
    assert params["body"].keys() == {"Dense_0"}
    batch = {"x": jnp.asarray(x), "y": jnp.asarray(numbers)}
    value = lambda p: losses.supervised_loss(net.apply, loss)(p, {}, batch, jax.random.key(0))[0]  # noqa: E731
    found, gradient = jax.value_and_grad(value)(params)
    hidden, head = params["body"]["Dense_0"], params["head"]
    h = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0)
    expected, dz = softmax_loss(h, head["kernel"], head["bias"], numbers, 0.8)
    dh = (dz @ head["kernel"].T) * (h > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient["head"]["kernel"], h.T @ dz, atol=1e-12)
    np.testing.assert_allclose(gradient["head"]["bias"], dz.sum(0), atol=1e-12)
    np.testing.assert_allclose(gradient["body"]["Dense_0"]["kernel"], x.T @ dh, atol=1e-12)


def test_an_update_is_adamws_on_views_of_a_batch_and_their_images_numbers(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "flip", lambda rng, x: x[:, :, ::-1])  # views that a test can have, too
    config = settings(**{"model.name": "mlp", "model.hidden": (16,), "train.augment": "flip", "diet.updates": 1})
    experiment = train.build(config, dataset())
    rows, x = experiment.numbered.take(0, 32), experiment.dataset.train.x  # pyright: ignore[reportOptionalMemberAccess]
    assert len(set(rows.tolist())) == 32
    views = (x[rows][:, :, ::-1].astype(np.float64) / 127.5 - 1).reshape(32, -1)
    net = diet.Numbered(experiment.model, len(x))
    rng = jax.random.split(jax.random.key(config.seed ^ start._SEED))[0]
    head = net.init(rng, np.zeros((1, 8, 8, 3), np.float32), train=False)["params"]["head"]
    head = jax.tree.map(lambda w: np.asarray(w, np.float64), head)
    before = experiment.method.init(config.seed).params["Dense_0"]
    before = jax.tree.map(lambda w: np.asarray(w, np.float64), before)
    h = np.maximum(views @ before["kernel"] + before["bias"], 0)
    _, dz = softmax_loss(h, head["kernel"], head["bias"], rows, 0.8)
    g = views.T @ ((dz @ head["kernel"].T) * (h > 0))
    after = start.first_state(experiment, config.seed).params["Dense_0"]["kernel"]
    expected = before["kernel"] - 1e-3 * (np.sign(g) + 0.05 * before["kernel"])
    clear = np.abs(g) > 1e-6  # Adam's first step is a sign, which rounding decides where there is no gradient
    assert clear.mean() > 0.9
    np.testing.assert_allclose(np.asarray(after)[clear], expected[clear], atol=2e-5)


MLP = {"model.name": "mlp", "model.hidden": (8,)}  # compiling convolutions is what takes time here
SCATTERING = {"model.name": "scattering", "model.blocks": 1, "model.width": 8, "model.views": 3}


def other_labels(given: Dataset) -> Dataset:
    labels = np.random.default_rng(3).permutation(given.train.y)
    assert (labels != given.train.y).sum() > 10
    return dataclasses.replace(given, splits={**given.splits, "train": Split(given.train.x, labels)})


def test_labels_have_no_say():
    config = settings("metabalance", **{**MLP, "query.sampler": "class_balanced", "diet.updates": 3})
    given = dataset()
    body, other = (
        start.first_state(train.build(config, data), 0).params["Dense_0"] for data in (given, other_labels(given))
    )
    assert_same_bits(body, other)
    fresh = train.build(config, given).method.init(0).params["Dense_0"]
    assert np.abs(np.asarray(body["kernel"]) - fresh["kernel"]).max() > 1e-4


def test_of_a_frozen_stem_the_numbers_are_those_of_the_images_whose_views_are_read():
    given = dataset()
    experiment, other = (train.build(settings(**SCATTERING), data) for data in (given, other_labels(given)))
    constants = [own.make_method.keywords["model"].learned.arrays() for own in (experiment, other)]
    assert_same_bits(*constants)  # without whitening the labels have no say in what is learned of the features
    stream: Any = experiment.numbered
    assert stream.x is experiment.streams["train"].x  # features are computed once
    rows = stream.take(0, 4000)
    np.testing.assert_array_equal(stream.y[rows], rows // 3)
    assert set(rows.tolist()) == set(range(3 * 40))  # each view of each image
    assert (np.bincount(stream.y[rows]) == 100).all()


@pytest.mark.parametrize("method", ["m2m", "mw_net"])
def test_the_method_starts_with_a_new_head_on_the_body_that_was_trained(method):
    changes = {"optimizer.ema": 0.9, "optimizer.sam": 0.05}
    plain = train.build(settings("erm"), dataset())
    body = start.first_state(plain, 0).replace(opt_state=None)
    experiment = train.build(settings(method, **({} if method == "m2m" else changes)), dataset())
    fresh, state = experiment.method.init(0), start.first_state(experiment, 0)
    assert int(state.step) == 0
    (head,) = heads(fresh.params)
    assert_same_bits(state.params[head], fresh.params[head])
    assert {*state.params} == {"Conv_0", "Conv_1", "BatchNorm_0", "BatchNorm_1", head}
    for name in {*state.params} - {head}:
        moved = jax.tree.map(
            lambda a, b: float(np.abs(np.asarray(a) - b).max()), state.params[name], fresh.params[name]
        )
        assert min(jax.tree.leaves(moved)) > 1e-4, name
    assert_same_bits(state.params, body.params)  # whichever the method, it is the same start
    assert_same_bits(state.model_state, body.model_state)
    assert np.abs(state.model_state["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0.01  # at first 0
    own: Any = state
    if method == "m2m":  # so does its other classifier, with a head of its own
        assert_same_bits(own.g_params["Conv_1"], state.params["Conv_1"])
        assert np.abs(np.asarray(own.g_params[head]["kernel"]) - state.params[head]["kernel"]).max() > 1e-2
        assert_same_bits(own.g_model_state, state.model_state)
        return
    kernel = np.asarray(state.params["Conv_1"]["kernel"])  # in the average, in the copy of sam, and not as it was
    copies = [x for x in jax.tree.leaves(own.opt_state) if np.shape(x) == kernel.shape and np.array_equal(x, kernel)]
    assert len(copies) == 2


def test_views_of_an_image_find_each_other_and_the_loss_falls_on_digits(caplog):
    x, y = map(np.asarray, load_digits(return_X_y=True))
    digits = Split((x[:60] / 16).astype(np.float32).reshape(-1, 8, 8, 1), y[:60].astype(np.int32))
    data = dataset(splits={"train": digits, "test": digits}, classes=tuple("0123456789"))
    changes = {"model.name": "mlp", "model.hidden": (256, 64), "diet.updates": 500, "diet.batch_size": 64}
    experiment = train.build(settings(**changes), data)
    with caplog.at_level(logging.INFO, "mbjax"):
        states = experiment.method.init(0), start.first_state(experiment, 0)
    seen = [float(record.message.rpartition(" ")[2]) for record in caplog.records if "without labels" in record.message]
    assert len(seen) == 10
    assert seen[-1] < min(seen[0], np.log(60)) - 0.05  # the logarithm is the loss of who knows nothing

    look = jax.jit(augment.AUGMENTATIONS["crop_flip"])

    def found(state: Any, pair: int) -> float:
        """How often an image is the one whose other view is nearest to a view of it."""
        views = [look(jax.random.key(2 * pair + k), jnp.asarray(digits.x)) for k in (0, 1)]
        a, b = (experiment.model.apply({"params": state.params}, v, train=False, features=True) for v in views)
        a, b = (np.asarray(f) - np.asarray(a).mean(0) for f in (a, b))
        a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (a, b))
        return float(((a @ b.T).argmax(1) == np.arange(60)).mean())

    before, after = (np.mean([found(state, pair) for pair in range(4)]) for state in states)
    assert after > before + 0.1


class Read:
    """Examples that are read by index."""

    block, digest = 1, "of the test"

    def __init__(self, x: np.ndarray):
        self._x, self.shape, self.dtype = x, x.shape, x.dtype

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._x[rows]


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"train.augment": "none"}, {}, r"config.train.augment='none' makes none: set it to crop_flip, say, or leave "
         r"config.diet.updates=10 at 0"),
        ({"method": "metabalance", "query.augment": "none"}, {}, "config.query.augment='none' makes none"),
        ({"model.name": "tabm"}, {}, "which the model 'tabm' does not give"),
        ({"model.name": "mlp", "model.hidden": ()}, {}, "where the model 'mlp' has no weights"),
        ({"model.name": "scattering"}, {}, r"'scattering' has no weights: give it layers \(config.model.blocks"),
        ({}, {"kind": "identification"}, "the start is for classes, and noise is of people"),
        ({}, {"splits": {"train": Split(Read(images().x), images().y), "test": images((4, 4))}}, "read by index"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_refused_in_one_line(changes, data, message):
    config = settings(**changes)
    with pytest.raises(UserError, match=message) as error:
        train.assemble(config, dataset(**data))
    assert "config.diet.updates" in str(error.value)
    assert "\n" not in str(error.value)
    for key in ("updates", "batch_size"):
        with pytest.raises(UserError, match=f"config.diet.{key}=-1: a whole number of at least"):
            settings(**{f"diet.{key}": -1})


def test_a_method_that_makes_its_own_first_weights_and_runs_of_one_program_are_refused():
    experiment = train.build(settings(), dataset())
    with pytest.raises(ValueError, match=r"have a start, config\.diet"):
        population.train_population([experiment], [0])
    make = experiment.make_method

    def stubborn(*names: Any, start: Any = None, **more: Any):
        return make.func(*names, **more)

    own: Any = dataclasses.replace(experiment, make_method=type(make)(stubborn, *make.args, **make.keywords))
    with pytest.raises(UserError, match=r"the method 'erm' does not take its first weights from problem\.init"):
        start.first_state(own, 0)


def test_none_is_the_default_and_then_nothing_changes():
    experiment = train.build(settings(**{"diet.updates": 0, "train.augment": "none"}), dataset())
    assert experiment.numbered is None
    assert experiment.streams.keys() == {"train"}
    assert_same_bits(start.first_state(experiment, 0).params, experiment.method.init(0).params)


def test_training_in_memory_starts_so_too():
    experiment = train.build(settings(**MLP), dataset())
    fitted = train.fit(experiment, seed=3, updates=2)
    again = train.fit(experiment, seed=3, updates=2, start=start.first_state(experiment, 3))
    fresh = train.fit(train.build(settings(**MLP, **{"diet.updates": 0}), dataset()), seed=3, updates=2)
    assert_same_bits(fitted.state.params, again.state.params)
    assert np.abs(fitted.state.params["Dense_0"]["kernel"] - fresh.state.params["Dense_0"]["kernel"]).max() > 1e-3


def test_it_is_spread_over_devices_as_the_method_is():
    config = settings(parallel="shard_map", **MLP)
    spread = start.first_state(train.build(config, dataset()), 0, parallel="shard_map").params
    alone = start.first_state(train.build(settings(**MLP), dataset()), 0).params
    assert len(spread["Dense_0"]["kernel"].devices()) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), spread, alone)


def test_a_run_that_is_killed_in_or_after_its_start_is_as_an_uninterrupted_one(tmp_path, monkeypatch):
    config = settings(**MLP)
    whole = train.train_and_evaluate(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(*given: Any, **more: Any) -> None:
        raise Killed

    def killed_by(target: Any, name: str, function: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, function)
            with pytest.raises(Killed):
                train.train_and_evaluate(config, tmp_path / "killed")

    def steps() -> list[str]:
        return sorted(file.name for file in (tmp_path / "killed" / "checkpoints").glob("[0-9]*"))

    told = start.log.info
    killed_by(
        start.log, "info", lambda line, *of: kill() if "without labels" in line and of[0] == 5 else told(line, *of)
    )
    assert steps() == []
    killed_by(loop, "_loop", kill)
    assert steps() == ["0"]
    monkeypatch.setattr(loop, "first_state", kill)  # from here on the start is not done again
    killed_by(loop, "_show", kill)
    assert steps() == ["0", "4"]
    result = train.train_and_evaluate(config, tmp_path / "killed")
    assert result["resumed_at"] == 4
    assert result["test"] == whole["test"]
    assert_same_bits(final_params(tmp_path / "killed", config), final_params(tmp_path / "whole", config))
