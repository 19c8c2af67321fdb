"""Crops, flips, mixup and CutMix: what they do to pixels and labels; each image, batch and step has its own numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from mbjax import augment, train, trivial_augment
from mbjax import config as config_lib
from mbjax.types import UserError

KEYS = jax.random.split(jax.random.key(0), 4000)
# Every pixel of an image is another number, so that a crop tells where it was.
IMAGE = np.arange(1, 9 * 9 + 1, dtype=np.float32).reshape(9, 9, 1)


def test_uint8_images_become_floats_from_minus_1_to_1_and_floats_stay():
    x = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(augment.to_float(jnp.asarray(x)), [-1, -0.6, 1], rtol=1e-6)
    floats = jnp.asarray([0.0, 200.0])
    assert augment.to_float(floats) is floats


def test_crops_are_windows_of_the_padded_image_at_every_place_equally_often():
    images = jnp.tile(IMAGE, (4000, 1, 1, 1))
    crops = np.asarray(augment.crop(KEYS[0], images, size=9, pad=1))
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)))
    windows = np.stack([padded[i : i + 9, j : j + 9] for i in range(3) for j in range(3)])
    matches = (crops[:, None] == windows[None]).all((2, 3, 4))
    assert (matches.sum(1) == 1).all()
    assert stats.chisquare(matches.sum(0)).pvalue > 1e-3


def test_a_crop_without_padding_is_smaller_and_comes_from_the_image():
    crops = np.asarray(augment.AUGMENTATIONS["crop28_flip"](KEYS[0], jnp.arange(2 * 32 * 32.0).reshape(2, 32, 32, 1)))
    assert crops.shape == (2, 28, 28, 1)
    assert (np.abs(np.diff(crops, axis=2)) == 1).all()  # neighbours stay neighbours, mirrored or not
    assert (np.diff(crops, axis=1) == 32).all()


def test_half_of_the_images_are_mirrored_left_to_right():
    out = np.asarray(augment.flip(KEYS[0], jnp.tile(IMAGE, (4000, 1, 1, 1))))
    mirrored = (out == IMAGE[:, ::-1]).all((1, 2, 3))
    assert (mirrored | (out == IMAGE).all((1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def shares(alpha: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """The λ that mixup drew for many batches of one example of class 0 and one of class 1, read off x and off y."""
    x, y = jnp.asarray([[0.0], [1.0]]), jnp.eye(2)
    mixed, labels = jax.vmap(lambda k: augment.mixup(k, x, y, alpha=alpha))(KEYS[:n])
    return np.asarray(mixed)[:, :, 0], np.asarray(labels)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_mixup_draws_its_share_from_a_beta_distribution_and_mixes_labels_alike(alpha):
    x, y = shares(alpha)
    np.testing.assert_allclose(x, y[:, :, 1], atol=1e-6)  # x is 1 exactly where the label is class 1
    np.testing.assert_allclose(y.sum(-1), 1, atol=1e-6)
    swapped = x[:, 0] > 0  # the permutation of two is the identity half of the time
    assert abs(swapped.mean() - 0.5) < 0.05
    # x_0 = λ·0 + (1 − λ)·1, and Beta(α, α) is its own mirror image.
    assert stats.kstest(x[swapped, 0], stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_keeps_the_share_of_the_label_that_it_keeps_of_the_image():
    x = jnp.stack([jnp.zeros((16, 16, 3)), jnp.ones((16, 16, 3))])
    mixed, labels = jax.vmap(lambda k: augment.cutmix(k, x, jnp.eye(2), alpha=1.0))(KEYS[:500])
    mixed, labels = np.asarray(mixed), np.asarray(labels)
    np.testing.assert_allclose(mixed.mean((2, 3, 4)), labels[:, :, 1], atol=1e-6)
    changed = mixed[:, 0, :, :, 0] == 1
    for image in changed[changed.any((1, 2))]:  # what was pasted is a box
        rows, columns = image.any(1), image.any(0)
        np.testing.assert_array_equal(image, rows[:, None] & columns[None])
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()


def test_the_box_of_cutmix_has_the_side_asked_for_where_the_image_does_not_cut_it_off():
    inside = np.asarray(jax.vmap(lambda k: augment.box_axis(k, 32, jnp.sqrt(0.25)))(KEYS[:2000]))  # 1 − λ = 1/4
    whole = ~inside[:, 0] & ~inside[:, -1]
    assert (inside[whole].sum(1) == 16).all()
    assert inside.sum(1).min() == 8  # centred on the first pixel
    # A uniform centre puts pixel p inside as often as there are centres within 8 of it.
    expected = [len([c for c in range(32) if c - 8 <= p < c + 8]) / 32 for p in range(32)]
    np.testing.assert_allclose(inside.mean(0), expected, atol=0.05)


def test_cutmix_shares_fall_with_the_area_cut():
    x = jnp.stack([jnp.zeros((32, 32, 1)), jnp.ones((32, 32, 1))])
    label = np.asarray(jax.vmap(lambda k: augment.cutmix(k, x, jnp.eye(2), alpha=1.0))(KEYS[:2000])[1])[:, 0, 1]
    cut = label[label > 0]
    # λ ~ U(0, 1): the box is 1 − λ of the image, less what its place cuts off: on average about a quarter is pasted.
    assert 0.2 < cut.mean() < 0.35
    assert 0.8 < cut.max() < 1


def batch(lead=(3, 2), n=4, dtype: Any = np.uint8):
    rng = np.random.default_rng(0)
    return {
        "x": jnp.asarray(rng.integers(0, 256, (*lead, n, 8, 8, 3)), dtype),
        "y": jnp.asarray(rng.integers(0, 5, (*lead, n)), jnp.int32),
    }


def transform(batch, **changes):
    options: dict[str, Any] = {
        "augment": "none", "mix": "none", "mix_alpha": 1.0, "mix_probability": 1.0, "sum_groups": False, "classes": 5,
    }  # fmt: skip
    return augment.transform(batch, KEYS[0], **options | changes)


def test_batches_of_many_pairs_are_each_mixed_within_themselves():
    one = batch()
    out = transform(one, mix="mixup")
    assert out["y"].shape == (3, 2, 4, 5)
    x, y = np.asarray(augment.to_float(one["x"])), np.eye(5)[np.asarray(one["y"])]
    found = set()
    for place in np.ndindex(3, 2):
        # Whatever the permutation, the batch's sums stay; and the shares differ from batch to batch.
        np.testing.assert_allclose(out["x"][place].sum(0), x[place].sum(0), atol=1e-5)
        np.testing.assert_allclose(out["y"][place].sum(0), y[place].sum(0), atol=1e-6)
        found |= {float(s) for s in np.asarray(out["y"][place]).max(-1).round(5) if 0.5 <= s < 1}
    assert len(found) >= 5


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_some_batches_are_mixed_and_the_others_left_whole(mix):
    one = batch(lead=(200, 2))
    always, half, never = (transform(one, mix=mix, mix_probability=probability) for probability in (1.0, 0.5, 0.0))
    whole = (augment.to_float(one["x"]), np.eye(5)[np.asarray(one["y"])])
    for got, expected in zip((never["x"], never["y"]), whole, strict=True):
        np.testing.assert_array_equal(got, expected)
    mixed: Any = np.asarray(half["x"] == always["x"]).all((2, 3, 4, 5))
    assert 0.4 < mixed.mean() < 0.6  # ± 4 standard errors of 400 coins
    assert 0.3 < (mixed[:, 0] == mixed[:, 1]).mean() < 0.7  # each batch has its own
    for name, expected in zip(("x", "y"), whole, strict=True):
        np.testing.assert_array_equal(half[name][mixed], always[name][mixed])
        np.testing.assert_array_equal(half[name][~mixed], np.asarray(expected)[~mixed])
    # Always mixed is what the mixture alone makes, on the same keys.
    x = augment.to_float(one["x"]).reshape(400, 4, 8, 8, 3)
    rngs = jax.random.split(jax.random.fold_in(KEYS[0], 1), 400)
    y = jax.nn.one_hot(one["y"].reshape(400, 4), 5)
    mixed_by: Any = augment.MIXES[mix]
    alone = jax.vmap(lambda rng, x, y: mixed_by(rng, x, y, alpha=1.0))(rngs, x, y)
    np.testing.assert_array_equal(always["x"].reshape(x.shape), alone[0])
    np.testing.assert_array_equal(always["y"].reshape(y.shape), alone[1])


def test_two_classes_have_one_number_a_label():
    binary = {"x": jnp.ones((4, 3)), "y": jnp.asarray([0, 1, 1, 0])}
    out = transform(binary, mix="mixup", classes=2)
    assert out["y"].shape == (4,)
    assert float(out["y"].sum()) == pytest.approx(2)


def test_nothing_asked_for_leaves_floats_and_labels_alone():
    floats = batch(dtype=np.float32)
    out = transform(floats)
    assert out["x"] is floats["x"]
    assert out["y"] is floats["y"]


def test_weights_make_a_mean_the_sum_of_the_groups_means():
    group = jnp.asarray([[0, 0, 0, 1], [1, 0, 1, 0]])
    one = {"x": jnp.ones((2, 4, 3)), "y": jnp.zeros((2, 4), jnp.int32), "group": group}
    out = transform(one, sum_groups=True)
    losses = np.array([[1.0, 2.0, 6.0, 10.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose((np.asarray(out["weight"]) * losses).mean(1), [3 + 10, 2 + 3], rtol=1e-6)


def test_streams_and_steps_have_their_own_random_numbers():
    seen = []
    section = {"augment": "crop_flip", "mix": "none", "mix_alpha": 1.0, "mix_probability": 1.0, "sum_groups": False}

    def remember(state, batches):
        seen.append(batches)
        return state, {}

    step = augment.before(remember, {"support": section, "query": section}, classes=5, image=True)

    class State:
        rng = jax.random.key(0)
        step = 0

    for State.step in (0, 0, 1):
        step(State, {"support": batch(), "query": batch()})
    assert (seen[0]["support"]["x"] == seen[1]["support"]["x"]).all()  # a resumed run sees the same
    assert (seen[0]["support"]["x"] != seen[0]["query"]["x"]).any()
    assert (seen[0]["support"]["x"] != seen[2]["support"]["x"]).any()


def test_the_margins_share_grows_with_the_step_and_only_where_it_is_asked_for():
    section = {"augment": "none", "mix": "none", "mix_alpha": 1.0, "mix_probability": 1.0, "sum_groups": False}
    seen: Any = []
    options = {"classes": 5, "image": True, "with_margin": ["query"], "margin_updates": 8}
    step = augment.before(
        lambda state, batches: (state, seen.append(batches) or {}), {"support": section, "query": section}, **options
    )

    class State:
        rng = jax.random.key(0)
        step = 0

    for State.step in (0, 4, 6, 8, 100):
        step(State, {"support": batch(), "query": batch()})
    for batches, share in zip(seen, (0.0, 0.5, 0.75, 1.0, 1.0), strict=True):
        np.testing.assert_array_equal(batches["query"]["margin_share"], np.full(batch()["y"].shape, share))
        assert "margin_share" not in batches["support"]


def small(**overrides):
    config = config_lib.base()
    config.model = {"name": "cnn", "channels": (4,), "conv": "auto", "head": "linear"}
    config.query.sampler = "class_balanced"
    config.meta.update(steps=2, pairs_per_chunk=1)
    config.updates, config.eval.every = 4, 2
    config.update_from_flattened_dict(overrides)
    return config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("query.augment", "blur", "config.query.augment='blur': choose one of none, flip, crop_flip"),
        ("support.mix", "cutout", "config.support.mix='cutout': choose one of none, mixup, cutmix"),
        ("support.loss", "hinge", "config.support.loss='hinge': choose one of cross_entropy, focal"),
        ("eval.protocol", "authors", "config.eval.protocol='authors' is for images of 28×28 pixels or more"),
    ],
)
def test_mistakes_are_one_line(tmp_path, key, value, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        train.train_and_evaluate(small(**{key: value}), tmp_path)


def test_crops_are_refused_for_tables(tmp_path):
    rows = ["a,b,y"] + [f"{i},{i % 3},{'no' if i % 4 else 'yes'}" for i in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    config = config_lib.base()
    config.task = "tabular"
    config.data.update(path=str(tmp_path / "t.csv"), target="y")
    config.query.augment = "crop_flip"
    with pytest.raises(UserError, match=r"config.query.augment='crop_flip' is for images"):
        train.build(config_lib.validate(config))


def test_mixup_in_the_query_loop_and_an_adjusted_support_loss_train(tmp_path):
    config = small(**{"query.mix": "mixup", "support.loss": "logit_adjustment"})
    result = train.train_and_evaluate(config, tmp_path)
    other = train.train_and_evaluate(small(**{"query.mix": "mixup"}), tmp_path / "other")
    assert result["test"]["log_loss"] != other["test"]["log_loss"]
    assert np.isfinite(result["test"]["log_loss"])
    with np.load(tmp_path / "predictions.npz") as predictions:
        p, labels = predictions["probabilities"], predictions["labels"]
    assert (p.argmax(1) == labels).mean() == pytest.approx(result["test"]["accuracy"])
    counts = np.array(result["data"]["class_counts"]["train"])
    assert ((p / counts).argmax(1) == labels).mean() == pytest.approx(result["priors_test"]["accuracy"], abs=1e-3)


def natural(n: int, height: int, width: int) -> np.ndarray:
    """Smooth images with noise, of all brightnesses, uint8 `[n, height, width, 3]`; the last one is plain grey."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 8
    waves = rng.normal(size=(n, 1, 1, 3)) * y[..., None] + rng.normal(size=(n, 1, 1, 3)) * x[..., None]
    images = rng.uniform(60, 190, (n, 1, 1, 3)) + 60 * np.sin(waves) + rng.normal(0, 5, (n, height, width, 3))
    images[-1] = 77
    return np.clip(images, 0, 255).astype(np.uint8)


def by_pillow(pixels: np.ndarray, operation: str, strength: int, sign: int) -> np.ndarray:
    """TrivialAugment's operations as its authors' code does them."""
    image, share = Image.fromarray(pixels), strength / 30
    affine = {
        "shear_x": (1, sign * 0.99 * share, 0, 0, 1, 0), "shear_y": (1, 0, 0, sign * 0.99 * share, 1, 0),
        "translate_x": (1, 0, sign * 32 * share, 0, 1, 0), "translate_y": (1, 0, 0, 0, 1, sign * 32 * share),
    }  # fmt: skip
    enhance = {
        "brightness": ImageEnhance.Brightness, "color": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }  # fmt: skip
    if operation in affine:
        image = image.transform(image.size, Image.Transform.AFFINE, affine[operation])
    elif operation in enhance:
        image = enhance[operation](image).enhance(1 + sign * 0.99 * share)
    elif operation == "rotate":
        image = image.rotate(sign * 135 * share)
    elif operation == "posterize":
        image = ImageOps.posterize(image, 8 - round(6 * share))
    elif operation == "solarize":
        threshold: Any = 255 * (30 - strength) / 30  # which need not be whole
        image = ImageOps.solarize(image, threshold)
    elif operation == "auto_contrast":
        image = ImageOps.autocontrast(image)
    elif operation == "equalize":
        image = ImageOps.equalize(image)
    return np.asarray(image)


def test_trivial_augments_operations_are_pillows():
    cases = [(op, k, sign) for op in range(14) for k in (0, 7, 20, 30) for sign in (1, -1)]
    images = natural(3, 20, 26)
    apply = jax.jit(trivial_augment.apply)
    columns = [jnp.asarray(column) for column in zip(*cases, strict=True)]
    for pixels in images:
        out = np.asarray(apply(jnp.asarray(np.broadcast_to(pixels, (len(cases), *pixels.shape))), *columns))
        for got, (operation, strength, sign) in zip(out, cases, strict=True):
            name = trivial_augment.OPERATIONS[operation]
            distance = np.abs(got.astype(int) - by_pillow(pixels, name, strength, sign).astype(int))
            if name in ("identity", "posterize", "solarize", "equalize"):
                assert not distance.any(), (name, strength, sign)
            elif operation > 5:  # Pillow cuts decimals off that differ in rounding
                assert distance.max() <= 1, (name, strength, sign)
            else:  # and finds pixels with 16 bits after the point; at 135° many lie between two
                assert (distance.max(-1) > 0).mean() < 0.04, (name, strength, sign)


def test_trivial_augment_draws_each_operation_strength_and_sign_alike(monkeypatch):
    monkeypatch.setattr(trivial_augment, "apply", lambda images, *drawn: drawn)
    images = jnp.zeros((60_000, 1, 1, 3), jnp.uint8)
    operation, strength, sign = (np.asarray(d) for d in trivial_augment.trivial_augment(KEYS[0], images))
    _, counts = np.unique(operation * 62 + strength * 2 + (sign > 0), return_counts=True)
    assert len(counts) == 14 * 31 * 2
    assert stats.chisquare(counts).pvalue > 0.001


def test_trivial_augment_comes_after_crops_and_is_for_8_bits(monkeypatch, tmp_path):
    images = jnp.asarray(natural(6, 16, 16))
    expected = augment.AUGMENTATIONS["crop_flip"](KEYS[1], images)
    monkeypatch.setattr(augment, "trivial_augment", lambda rng, images: 255 - images)
    np.testing.assert_array_equal(augment.AUGMENTATIONS["crop_flip_trivial"](KEYS[1], images), 255 - expected)
    with pytest.raises(UserError, match=r"config.query.augment='crop_flip_trivial' is for images of 8 bits, and"):
        train.train_and_evaluate(small(**{"query.augment": "crop_flip_trivial"}), tmp_path)
    with pytest.raises(UserError, match="TrivialAugment is for images of 8 bits"):
        trivial_augment.trivial_augment(KEYS[0], images.astype(jnp.float32))


def box_by_definition(rng: np.random.Generator, size: int, least_area: float) -> tuple[int, int]:
    """Height and width of a box as torchvision's RandomResizedCrop draws them."""
    for _ in range(10):
        area = size**2 * rng.uniform(least_area, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size and 0 < height <= size:
            return height, width
    return size, size


def test_boxes_have_the_published_areas_and_shapes_and_lie_anywhere():
    boxes = np.asarray(augment.crop_boxes(KEYS[0], 4000, (96, 96), least_area=0.08))
    rng = np.random.default_rng(0)
    expected = np.array([box_by_definition(rng, 96, 0.08) for _ in range(4000)], float)
    height, width = boxes[:, 2:].T
    for got, wanted in (
        (height * width, expected.prod(1)),
        (width / height, expected[:, 1] / expected[:, 0]),
    ):
        alike: Any = stats.ks_2samp(got, wanted)
        assert alike.pvalue > 0.01
    for start, side in zip(boxes.T, (height, width), strict=False):
        assert ((start >= 0) & (start + side <= 96)).all()
        room = side < 90
        found: Any = stats.kstest((start[room] + 0.5) / (96 - side[room] + 1), "uniform")
        assert found.pvalue > 0.001
    assert (augment.crop_boxes(KEYS[1], 50, (96, 96), least_area=1.0) == jnp.array([[0, 0, 96, 96]])).all()


def test_a_box_is_stretched_as_pillow_does():
    images = natural(5, 24, 24)
    boxes = np.asarray(augment.crop_boxes(KEYS[2], 5, (24, 24), least_area=0.08))
    out = np.asarray(augment.resized_crop(KEYS[2], jnp.asarray(images)))
    for got, pixels, (top, left, height, width) in zip(out, images, boxes.tolist(), strict=True):
        box = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR, box=box))
        assert np.abs(got.astype(int) - expected).max() <= 1
    floats = np.asarray(augment.resized_crop(KEYS[2], jnp.asarray(images, jnp.float32)))
    assert 0 < np.abs(floats - out).max() <= 0.5  # of other types they are not rounded
