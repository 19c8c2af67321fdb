"""The scattering transform, against Kymatio's values (tests/values/scattering.py made them), and training behind it."""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mbjax
from mbjax import augment, config, sampling, train
from mbjax.evaluation import evaluate
from mbjax.export import onnx_file, stablehlo
from mbjax.models import patches, stem, whitening
from mbjax.models.scattering import paths, scattering
from mbjax.models.scattering_net import OnScattering, ScatteringNet, log_scattering
from mbjax.types import Dataset, Split, UserError

VALUES = np.load(pathlib.Path(__file__).parent / "values/scattering.npz")


@pytest.mark.parametrize("case", ["square", "channels", "coarse"])
def test_it_has_kymatios_values(case, strict_dtypes):
    images, (scales, angles) = VALUES[f"{case}_images"], VALUES[f"{case}_bank"].tolist()
    out = scattering(jnp.asarray(images.astype(np.float32) / 255), scales=scales, angles=angles)
    assert out.dtype == jnp.float32
    assert out.shape[-1] == images.shape[-1] * paths(scales, angles)
    np.testing.assert_allclose(out, VALUES[f"{case}_values"], atol=1e-4)
    np.testing.assert_allclose(out, VALUES[f"{case}_values"], rtol=2e-4)  # its π has five digits


def test_the_directions_of_an_image_and_of_its_mirror_image_change_places(x64):
    """A mirrored wavelet is that of the opposite angle: of 4, 0 and −π/2 (which is π/2) stay, π/4 and −π/4 swap.

    Coefficients of 33 pixels are those of the pixels 1, 3 … 31, the same ones from either side. Those near the border,
    where the padding is not the same on both sides, are left out.
    """
    x = jax.random.uniform(jax.random.key(0), (1, 33, 33, 1), jnp.float64)
    straight, mirrored = (np.asarray(scattering(image, scales=1, angles=4))[0] for image in (x, x[:, :, ::-1]))
    expected = straight[:, ::-1, [0, 3, 2, 1, 4]]
    np.testing.assert_allclose(mirrored[5:-5, 5:-5], expected[5:-5, 5:-5], rtol=1e-8)


def test_a_constant_image_has_its_average_and_no_waves(x64):
    out = np.asarray(scattering(jnp.full((1, 16, 16, 1), 0.7), scales=2, angles=3))
    np.testing.assert_allclose(out[..., 0], 0.7, rtol=1e-12)
    np.testing.assert_allclose(out[..., 1:], 0, atol=1e-12)
    gradient = jax.jit(jax.grad(lambda x: scattering(x, scales=1, angles=2).sum()))(jnp.zeros((1, 8, 8, 1)))
    assert np.isfinite(gradient).all()  # where every modulus is that of 0


def test_its_gradient_is_that_of_finite_differences(x64):
    x, direction = jax.random.normal(jax.random.key(0), (2, 1, 8, 9, 2), jnp.float64)
    weights = jax.random.normal(jax.random.key(1), (1, 2, 2, 2 * paths(2, 3)), jnp.float64)

    @jax.jit
    def loss(x):
        return (weights * scattering(x, scales=2, angles=3) ** 2).sum()

    along = (jax.jit(jax.grad(loss))(x) * direction).sum()
    finite = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(along, finite, rtol=1e-7)


def test_images_of_fewer_pixels_than_a_coefficient_are_refused():
    with pytest.raises(ValueError, match="images of 3×8 pixels: 4 at least are needed for 2 scales"):
        scattering(jnp.zeros((1, 3, 8, 1)))


def images(counts: tuple[int, ...]) -> Split:
    """Noise of 12×12 pixels; on the second class lie horizontal stripes, on the third vertical ones."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    stripes = np.tile(np.array([[0], [0], [120], [120]]), (3, 12))
    patterns = np.stack([0 * stripes, stripes, stripes.T])[y, ..., None]
    return Split((patterns + rng.integers(0, 100, (len(y), 12, 12, 3))).astype(np.uint8), y)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset({"train": images((30, 5, 5)), "test": images((4, 4, 4))}, ("a", "b", "c"), "noise")


def settings(**changes):
    values = config.base()
    config.change(values, {
        "model.name": "scattering", "model.width": 8, "model.blocks": 1, "model.views": 3, "meta.steps": 2,
        "support.augment": "crop_flip", "query.augment": "crop_flip", "query.sampler": "class_balanced",
        "updates": 8, "updates_per_call": 4, "eval.every": 1.0, **changes,
    })  # fmt: skip
    return values


def test_features_are_those_of_the_stem_computed_once_of_few_views(dataset):
    experiment = train.build(config.validate(settings(**{"query.augment": "flip"})), dataset)
    x, stem = dataset.train.x, jax.jit(lambda x: log_scattering(x.astype(jnp.float32) / 127.5 - 1))
    support, query = (experiment.streams[name] for name in ("support", "query"))
    assert (support.x.shape, query.x.shape) == ((120, 3, 3, 243), (80, 3, 3, 243))  # three views of each, and two
    np.testing.assert_allclose(query.x[::2], stem(x), atol=4e-3)
    np.testing.assert_allclose(query.x[1::2], stem(x[:, :, ::-1]), atol=4e-3)
    np.testing.assert_array_equal(support.x[::3], query.x[::2])
    assert np.abs(support.x[1::3] - support.x[2::3]).mean(dtype=float) > 0.1
    np.testing.assert_array_equal(support.labels["y"], np.repeat(dataset.train.y, 3))
    # The order of the images is that of the sampler; the view is drawn, the same one whenever it is asked for.
    rows = support.indices(5, 40, (2, 24))
    options: Any = {"sampler": "natural", "name": "support", "seed": 0, "classes": dataset.classes, "cache_dir": None}
    images_alone = sampling.make_stream(dataset.train, **options)
    np.testing.assert_array_equal(rows // 3, images_alone.indices(5, 40, (2, 24)))
    np.testing.assert_allclose(np.bincount(rows.ravel() % 3) / rows.size, 1 / 3, atol=0.05)
    np.testing.assert_array_equal(rows[7:9], support.indices(12, 2, (2, 24)))


def test_the_model_predicts_on_images_what_the_network_behind_the_stem_says_of_features(dataset):
    experiment = train.build(config.validate(settings()), dataset)
    state, x = experiment.method.init(3), jnp.asarray(dataset.test.x.astype(np.float32) / 127.5 - 1)
    variables = {"params": state.params, **state.model_state}
    apply = lambda module, x: jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x)  # noqa: E731
    behind: Any = experiment.model
    np.testing.assert_allclose(
        apply(experiment.model, x), apply(behind.behind(), log_scattering(x)), rtol=1e-5, atol=1e-6
    )


class Doubling(nn.Module):
    """A stem that doubles images, of which it counts the calls, and a sum behind it."""

    times: float = 2.0
    calls: ClassVar[list[int]] = []

    @nn.nowrap
    def frozen_stem(self, images: jax.Array, known: Mapping[str, Any]) -> jax.Array:
        jax.debug.callback(lambda: self.calls.append(1), ordered=True)
        return self.times * images

    @nn.nowrap
    def behind(self, features: np.ndarray | None = None, labels: np.ndarray | None = None) -> nn.Module:
        return Summing(parent=None)

    def setup(self):
        self._behind = self.behind()

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self._behind(self.frozen_stem(x, {}), train=train)


class Summing(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return jnp.stack([x.sum((1, 2, 3)), jnp.ones(len(x))], -1)


def test_features_of_the_same_images_are_computed_once_and_kept_within_bounds(monkeypatch):
    monkeypatch.setattr(stem, "_kept", collections.OrderedDict())
    Doubling.calls.clear()
    images = np.random.default_rng(0).uniform(-1, 1, (130, 4, 4, 3)).astype(np.float32)

    def ask(images, times=2.0, **options):
        before = len(Doubling.calls)
        found = stem.features(Doubling(times), images, {}, **options)
        jax.effects_barrier()
        return found, len(Doubling.calls) - before

    found, calls = ask(images)
    np.testing.assert_array_equal(found, 2 * images)
    assert calls == 4  # the first batch, which tells stems apart, and the three that there are
    again, calls = ask(images.copy())
    assert again is found
    assert calls == 1
    tripled, _ = ask(images, times=3.0)
    np.testing.assert_array_equal(tripled, np.float32(3) * images)
    flipped, _ = ask(images, augmentation="flip", views=2)
    np.testing.assert_array_equal(flipped, 2 * np.stack([images, images[:, :, ::-1]], 1).reshape(-1, 4, 4, 3))
    monkeypatch.setattr(stem, "KEPT_BYTES", found.nbytes)
    other, _ = ask(1 - images)
    np.testing.assert_array_equal(other, 2 * (1 - images))
    assert list(map(id, stem._kept.values())) == [id(other)]  # what was asked for longest ago is gone
    monkeypatch.setattr(stem, "KEPT_BYTES", 1)
    np.testing.assert_array_equal(ask(images)[0], 2 * images)
    assert not stem._kept


def test_processes_that_share_a_folder_compute_features_once(monkeypatch, tmp_path):
    monkeypatch.setattr(stem, "_folder", None)
    stem.share_in(tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (70, 4, 4, 3)).astype(np.float32)
    Doubling.calls.clear()
    for more in (2, 0):  # batches beside the first one; the second time stands for a second process
        before = len(Doubling.calls)
        np.testing.assert_array_equal(stem.features(Doubling(), images, {}), 2 * images)
        jax.effects_barrier()
        assert len(Doubling.calls) - before == 1 + more
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(stem, "SHARED_BYTES", file.stat().st_size + 1)
    np.testing.assert_array_equal(stem.features(Doubling(), 1 - images, {}), 2 * (1 - images))
    assert [*tmp_path.iterdir()] == [file]


def test_a_split_is_predicted_by_features_where_they_fit_and_by_whole_images_else(monkeypatch):
    images = np.random.default_rng(0).uniform(-1, 1, (70, 4, 4, 3)).astype(np.float32)
    state = mbjax.TrainState.create(params={}, tx=optax.sgd(0.1), rng=jax.random.key(0))
    split = Split(images, np.zeros(70, np.int32))
    for kept in (stem.KEPT_BYTES, 1):
        monkeypatch.setattr(stem, "KEPT_BYTES", kept)
        Doubling.calls.clear()
        predict = evaluate.make_predict(Doubling(), split, batch_size=32)
        first, calls = predict(state), len(Doubling.calls)
        np.testing.assert_allclose(first[:, 0], 1 / (1 + np.exp(1 - 2 * images.sum((1, 2, 3)))), rtol=1e-5)
        np.testing.assert_array_equal(predict(state), first)
        jax.effects_barrier()
        assert (len(Doubling.calls) == calls) == (kept > 1)  # of kept features the second time costs nothing


def test_whitening_is_the_inverse_root_of_the_covariance_within_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (60, 9, 2)).astype(np.int32)
    features = (rng.normal(size=(71, 2, 1, 3)) @ rng.normal(size=(3, 3)) + labels[:, None, None, None]).astype(
        np.float32
    )
    learned = whitening.learn(features, labels, rank=6)
    np.testing.assert_allclose(learned.mean, features.mean((0, 1, 2)), rtol=1e-5)
    x = ((features - features.mean((0, 1, 2))) / features.std((0, 1, 2))).reshape(71, 6).astype(float)
    within = np.concatenate([x[labels == k] - x[labels == k].mean(0) for k in range(3)])
    covariance = within.T @ within / 71
    values, vectors = np.linalg.eigh(covariance / (15 / 3888 * np.trace(covariance)) + np.eye(6))
    expected = x @ (vectors / np.sqrt(values)) @ vectors.T
    expected *= 4 / np.sqrt((expected**2).sum(1).mean())
    module = OnScattering(2, 0, 6, 0, False, 8, "batch", "auto", "linear", learned)
    out = module.init_with_output(jax.random.key(0), features, train=False, features=True)[0]
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
    # Of fewer directions, only the largest are shrunk.
    few = whitening.learn(features, labels, rank=2)
    spread = np.linalg.svd(within)[2][:2]
    np.testing.assert_allclose(np.abs(few.directions @ spread.T), np.eye(2), atol=1e-2)
    assert repr(few) != repr(learned)


def test_two_kinds_of_channels_weigh_the_same():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 20).astype(np.int32)
    features = rng.normal(size=(60, 2, 2, 7)).astype(np.float32)
    learned = whitening.learn(features, labels, rank=0, last=4)
    variances = (((features - learned.mean) / learned.scale) ** 2).mean((0, 1, 2))
    np.testing.assert_allclose(variances, [7 / 6] * 3 + [7 / 8] * 4, rtol=1e-5)  # 3.5 of each kind, and 7 in all


def test_the_code_of_a_patch_is_what_its_cosines_have_beyond_a_threshold():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 11, 13, 2)).astype(np.uint8)
    known = patches.learn(images, np.arange(40) % 4, count=5)
    assert {name: array.shape for name, array in known.items()} == {"patch_whitening": (72, 72), "patches": (5, 72)}
    x = images[:3].astype(float) / 127.5 - 1
    expected = np.zeros((3, 2, 3, 10))
    for n, row, column in np.ndindex(3, 2, 3):
        for i, j in np.ndindex(3, 2):  # of the 6×8 places of a patch; one column on either side is left out
            top, left = 3 * row + i, 1 + 2 * column + j
            patch = x[n, top : top + 6, left : left + 6].transpose(2, 0, 1).ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + (10 / 127.5) ** 2) @ known["patch_whitening"]
            cosines = known["patches"] @ patch / np.sqrt(patch @ patch + 1e-3)
            expected[n, row, column] += np.maximum(np.r_[cosines, -cosines] - 0.25, 0) / 6
    found = patches.encode(jnp.asarray(x, jnp.float32), known, rows=2, columns=3)
    np.testing.assert_allclose(found, np.sqrt(expected), atol=2e-3)
    assert (expected > 0).mean() > 0.02


def test_a_dictionary_is_drawn_evenly_from_the_classes_and_whitened():
    rng, labels = np.random.default_rng(0), np.repeat([0, 3], (400, 4))
    images = rng.uniform(-1, 1, (404, 8, 8, 1))
    images[labels == 3] = np.sign(images[labels == 3])  # patches of the small class alone have two values
    known = patches.learn(images.astype(np.float32), labels, count=4000)
    np.testing.assert_allclose(np.linalg.norm(known["patches"], axis=1), 1, rtol=1e-5)
    raw = known["patches"] @ np.linalg.inv(known["patch_whitening"].astype(float))
    spread = np.abs(raw - raw.mean(1, keepdims=True))
    two_valued = spread.min(1) / spread.max(1) > 0.3
    assert abs(two_valued.mean() - 0.5) < 0.05
    normal = np.random.default_rng(1).normal(size=(4000, 36))
    assert np.linalg.svd(known["patches"] * 6)[1][-2] > 0.5 * np.linalg.svd(normal)[1][-2]  # no direction is left out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.blocks": 1}, "config.model.patches=7: residual blocks take the coefficients alone"),
        ({"data": 5}, "config.model.patches=7: images of 5×5 pixels have no patches of 6×6; set it to 0"),
    ],
)
def test_patches_that_cannot_be_are_refused(dataset, changes, message):
    if size := changes.pop("data", 0):
        part = Split(dataset.train.x[:, :size, :size], dataset.train.y)
        dataset = Dataset({"train": part, "test": part}, dataset.classes, "small")
    with pytest.raises(UserError, match=message):
        train.build(config.validate(settings(**{"model.blocks": 0, "model.patches": 7} | changes)), dataset)


@pytest.mark.parametrize("patches", [0, 7])
def test_a_table_is_refused_in_one_line(dataset, patches):
    rows = Split(dataset.train.x.reshape(len(dataset.train), -1).astype(np.float32), dataset.train.y)
    table = Dataset({"train": rows, "test": rows}, dataset.classes, "table")
    values = settings(**{"model.blocks": 0, "model.patches": patches, "method": "erm", "train.augment": "none"})
    with pytest.raises(UserError, match=r"scattering is for images, and these examples are \[432\]: choose mlp"):
        train.build(config.validate(values), table)


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_symmetric_model_gives_the_mean_of_an_image_and_its_mirror_image(dataset, blocks):
    options: dict[str, Any] = {"blocks": blocks, "whiten": 3, "width": 8}
    x = augment.to_float(jnp.asarray(dataset.train.x[:5]))
    plain, symmetric = (ScatteringNet(4, symmetric=symmetric, **options) for symmetric in (False, True))
    known = plain.learn_stem(dataset.train.x, dataset.train.y)
    parts = [np.asarray(plain.frozen_stem(seen, known)) for seen in (x, x[:, :, ::-1])]
    assert np.abs(parts[0] - parts[1]).max() > 0.1
    np.testing.assert_allclose(symmetric.frozen_stem(x, known), (parts[0] + parts[1]) / 2, atol=1e-5)
    variables = symmetric.init(jax.random.key(0), x, train=False)
    seen = [np.asarray(symmetric.apply(variables, view, train=False)) for view in (x, x[:, :, ::-1])]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)
    if not blocks:  # linear, so the logits are the means of the plain model's
        logits = [np.asarray(plain.apply(variables, view, train=False)) for view in (x, x[:, :, ::-1])]
        np.testing.assert_allclose(seen[0], (logits[0] + logits[1]) / 2, atol=1e-5)


@pytest.mark.parametrize(("patches", "symmetric"), [(0, False), (9, True)])
def test_a_run_learns_and_its_model_predicts_and_exports_on_raw_images(dataset, patches, symmetric, tmp_path):
    values = settings(**{"model.blocks": 0, "model.patches": patches, "model.symmetric": symmetric, "method": "erm",
                         "train.sampler": "class_balanced", "updates": 40,
                         "updates_per_call": 40, "train.augment": "flip", "optimizer.lr": 0.1})  # fmt: skip
    result = train.train_and_evaluate(values, tmp_path / "run", dataset)
    assert result["test"]["balanced_accuracy"] == 1
    model, x = mbjax.load(tmp_path / "run"), dataset.test.x
    written = np.load(tmp_path / "run/predictions.npz")["probabilities"]
    np.testing.assert_allclose(model.predict_proba(x, priors="raw"), written, rtol=1e-5, atol=1e-7)
    serialised, _ = stablehlo.to_stablehlo(model)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            jax.export.deserialize(bytearray(serialised)).call(x), model.predict_proba(x), atol=1e-4
        )
    with pytest.raises(UserError, match="the model 'scattering' cannot be written as ONNX"):
        onnx_file.to_onnx(model)


def test_a_run_without_whitening_saves_and_its_model_predicts(dataset, tmp_path):
    values = settings(**{"model.blocks": 0, "model.whiten": 0, "method": "erm", "train.augment": "flip"})
    train.train_and_evaluate(values, tmp_path / "run", dataset)
    written = np.load(tmp_path / "run/predictions.npz")["probabilities"]
    predicted = mbjax.load(tmp_path / "run").predict_proba(dataset.test.x, priors="raw")
    np.testing.assert_allclose(predicted, written, rtol=1e-5, atol=1e-7)


def test_an_augmentation_that_changes_the_size_is_refused(dataset):
    large = {part: Split(np.tile(split.x, (1, 3, 3, 1)), split.y) for part, split in dataset.splits.items()}
    with pytest.raises(UserError, match=r"config.support.augment='crop28_flip' changes the size of the images"):
        train.build(
            config.validate(settings(**{"support.augment": "crop28_flip"})), Dataset(large, ("a", "b", "c"), "x")
        )


def test_images_that_are_read_by_index_have_no_features(dataset):
    class Read:
        shape, dtype, digest, block = dataset.train.x.shape, dataset.train.x.dtype, "", 1
        __len__ = lambda self: len(dataset.train)  # noqa: E731
        __getitem__ = lambda self, rows: dataset.train.x[rows]  # noqa: E731

    train_split = Split(Read(), dataset.train.y)
    other = Dataset({**dataset.splits, "train": train_split}, dataset.classes, "noise")
    with pytest.raises(UserError, match="needs images in memory, and these are read by index"):
        train.build(config.validate(settings()), other)
