"""Identification and verification against brute force, and the embeddings that models give for them."""

import tracemalloc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from mbjax import models
from mbjax.evaluation import identification
from mbjax.models.conv import convolve
from mbjax.types import UserError


def signs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Embeddings of 16 entries ±1/4: of length 1, and their similarities are multiples of 1/8 without rounding."""
    return rng.choice([-0.25, 0.25], size=(count, 16)).astype(np.float32)


def people(rng: np.random.Generator, images: np.ndarray, noise: float, d: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around a point of each person, in mixed order, and whose they are."""
    identities = rng.permutation(np.repeat(np.arange(len(images)), images))
    centres = rng.normal(size=(len(images), d))
    embeddings = centres[identities] + noise * rng.normal(size=(len(identities), d))
    return identification.normalize(embeddings), identities


def brute_force(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarity = embeddings.astype(np.float64) @ embeddings.astype(np.float64).T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(1), similarity.max(1)


def all_pairs(embeddings: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a pair is of one person, and its similarity, of every two images."""
    first, second = np.triu_indices(len(identities), 1)
    similarity = (embeddings.astype(np.float64) @ embeddings.astype(np.float64).T)[first, second]
    return identities[first] == identities[second], similarity


def test_normalize_makes_lengths_1_and_keeps_zeros():
    rows = np.array([[3.0, -4.0], [0.0, 0.0], [1e-30, 0.0], [1e30, 1e30]], np.float32)
    out = identification.normalize(rows)
    assert out.dtype == np.float32
    half = np.sqrt(0.5)
    np.testing.assert_allclose(out, [[0.6, -0.8], [0, 0], [1, 0], [half, half]], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 50, 53, 2048])
def test_nearest_is_brute_force_with_ties_to_the_lowest_index(block):
    embeddings = signs(np.random.default_rng(0), 53)
    index, best = brute_force(embeddings)
    similarity = embeddings.astype(np.float64) @ embeddings.T
    assert ((similarity == best[:, None]).sum(1) > 1).mean() > 0.3  # many of them are ties
    found, value = identification.nearest(embeddings, block=block)
    np.testing.assert_array_equal(found, index)
    np.testing.assert_array_equal(value, best)
    assert value.dtype == np.float32


@pytest.mark.parametrize("block", [64, 1024])
def test_nearest_of_copies_is_the_first_other_copy(block):
    rng = np.random.default_rng(1)
    embeddings, _ = people(rng, np.full(40, 5), 0.8)
    copied = np.concatenate([embeddings, embeddings[:70], embeddings[:30]])
    found, value = identification.nearest(copied, block=block)
    expected, best = brute_force(embeddings)
    expected[:70] = 200 + np.arange(70)  # the first copy; those that come later find the original
    np.testing.assert_array_equal(found, np.concatenate([expected, np.arange(70), np.arange(30)]))
    np.testing.assert_allclose(value[70:200], best[70:], atol=1e-6)
    np.testing.assert_allclose(np.delete(value, np.s_[70:200]), 1, atol=1e-6)


def test_nearest_compiles_once_for_all_blocks_and_holds_no_more_than_a_tile():
    embeddings, _ = people(np.random.default_rng(2), np.full(100, 7), 0.8)
    meet: Any = identification._meet
    compiled = meet._cache_size()
    identification.nearest(embeddings, block=64)
    identification.nearest(embeddings[::-1], block=64)
    identification.nearest(embeddings[:690], block=64)  # as many blocks
    assert meet._cache_size() == compiled + 1
    found = jnp.zeros(704, jnp.int32), jnp.zeros(704)
    lowered = meet.lower(found, jnp.zeros((704, 24)), 0, 64, 700, block=64)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4 * 64 * 64 * 4


def test_mistakes_of_the_caller_are_refused():
    for shape in ((1, 4), (5,)):
        with pytest.raises(ValueError, match="at least two of them"):
            identification.nearest(np.ones(shape, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        identification.nearest(np.array([[1.0, 0.0], [np.nan, 1.0]], np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 2\) do not fit identities of shape \(2,\)"):
        identification.rank1(np.ones((3, 2), np.float32), np.array([0, 1]))


def test_rank1_is_brute_force_with_ties_copies_and_people_of_one_image():
    rng = np.random.default_rng(3)
    embeddings = signs(rng, 120)
    identities = rng.integers(1000, 1060, 120)
    embeddings[7], embeddings[90] = embeddings[3], embeddings[3]  # copies: of another person and of the same
    identities[[3, 7, 90]] = [1000, 1001, 1000]
    index, _ = brute_force(embeddings)
    alone = np.array([(identities == i).sum() == 1 for i in identities])
    correct, probed = identification.rank1(embeddings, identities)
    np.testing.assert_array_equal(correct, identities[index] == identities)
    np.testing.assert_array_equal(probed, ~alone)
    assert 5 < alone.sum() < 60
    assert not correct[3]  # image 7 comes before 90
    assert correct[90]
    assert not correct[alone].any()


def test_a_person_of_one_image_still_distracts():
    embeddings = identification.normalize(np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]]))
    correct, probed = identification.rank1(embeddings, np.array([0, 0, 1, 2, 2]))
    assert correct.tolist() == [False, False, False, True, True]
    assert probed.tolist() == [True, True, False, True, True]
    scores = identification.scores(embeddings, np.array([0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 1]), ("f", "m"))
    assert scores["rank1_accuracy"] == 0.5
    assert (scores["rank1_accuracy_f"], scores["rank1_accuracy_m"]) == (0.0, 1.0)
    assert scores["probes"] == {"f": 2, "m": 2}


def test_intervals_are_those_of_an_explicit_resampling_of_people():
    rng = np.random.default_rng(4)
    images = rng.integers(1, 9, 60)  # some have one image only
    embeddings, identities = people(rng, images, 1.4)
    groups = ((identities % 3) > 0).astype(np.int32)
    groups[rng.random(len(groups)) < 0.1] = 2  # a group need not be the same for all images of a person
    names = ("f", "m", "other")
    scores = identification.scores(embeddings, identities, groups, names, bootstrap=200, seed=5)
    correct, probed = identification.rank1(embeddings, identities)

    def accuracies(rows: np.ndarray) -> list[float]:
        rows = rows[probed[rows]]
        return [correct[rows].mean(), *(correct[rows[groups[rows] == g]].mean() for g in range(3))]

    values = accuracies(np.arange(len(identities)))
    high, low = int(np.argmax(values[1:])), int(np.argmin(values[1:]))
    draws = np.random.default_rng(5).integers(60, size=(200, 60))
    assert 0.1 < values[0] < 0.9
    drawn = np.array([accuracies(np.concatenate([np.flatnonzero(identities == i) for i in draw])) for draw in draws])
    for column, name in enumerate(("rank1_accuracy", *(f"rank1_accuracy_{name}" for name in names))):
        assert scores[name] == pytest.approx(values[column], rel=1e-12)
        np.testing.assert_allclose(scores[f"{name}_interval"], np.percentile(drawn[:, column], [2.5, 97.5]), rtol=1e-12)
    gaps = drawn[:, 1 + high] - drawn[:, 1 + low]
    assert scores["rank1_gap"] == pytest.approx(max(values[1:]) - min(values[1:]), rel=1e-12)
    assert scores["rank1_gap_groups"] == [names[high], names[low]]
    np.testing.assert_allclose(scores["rank1_gap_interval"], np.percentile(gaps, [2.5, 97.5]), rtol=1e-12)
    again = identification.scores(embeddings, identities, groups, names, bootstrap=200, seed=5)
    assert again == scores
    other = identification.scores(embeddings, identities, groups, names, bootstrap=200, seed=6)
    assert other["rank1_accuracy"] == scores["rank1_accuracy"]
    assert other["rank1_accuracy_interval"] != scores["rank1_accuracy_interval"]


@pytest.mark.parametrize("held", [10_000_000, 1000, 1])
def test_verification_is_scikit_learns_roc_curve_over_all_pairs(monkeypatch, held):
    monkeypatch.setattr(identification, "_HELD", held)
    rng = np.random.default_rng(6)
    embeddings, identities = signs(rng, 90), np.arange(90) % 18
    embeddings[18:36] = embeddings[:18]  # similarities are without rounding, and there are many ties
    same, similarity = all_pairs(embeddings, identities)
    false, true, _ = roc_curve(same, similarity, drop_intermediate=False)
    result = identification.verification(embeddings, identities)
    assert result["verification_auc"] == pytest.approx(roc_auc_score(same, similarity), rel=1e-12)
    assert result["true_accept_rate"] == true[false <= 1e-3].max()
    assert result["pairs"] == {"same": 18 * 10, "different": 90 * 89 // 2 - 180}
    rates = np.array(result["roc"]["false_accept_rates"])
    assert len(rates) <= 200
    assert (rates[0], rates[60], rates[-1]) == pytest.approx((1e-6, 1e-3, 1.0))
    np.testing.assert_array_equal(result["roc"]["true_accept_rates"], [true[false <= rate].max() for rate in rates])
    assert result["roc"]["true_accept_rates"][60] == result["true_accept_rate"]


def test_verification_of_similarities_that_are_rounded():
    embeddings, identities = people(np.random.default_rng(7), np.full(50, 6), 1.0)
    same, similarity = all_pairs(embeddings, identities)
    false, true, _ = roc_curve(same, similarity, drop_intermediate=False)
    result = identification.verification(embeddings, identities)
    assert 0.9 < result["verification_auc"] < 0.999
    assert result["verification_auc"] == pytest.approx(roc_auc_score(same, similarity), abs=1e-6)
    expected = [true[false <= rate].max() for rate in result["roc"]["false_accept_rates"]]
    np.testing.assert_allclose(result["roc"]["true_accept_rates"], expected, atol=1.5 / same.sum())


def test_verification_holds_a_bounded_number_of_similarities(monkeypatch):
    monkeypatch.setattr(identification, "_HELD", 100_000)
    monkeypatch.setattr(identification, "_GRID", 1 << 10)
    embeddings, identities = people(np.random.default_rng(8), np.full(500, 4), 1.0)
    tracemalloc.start()
    identification.verification(embeddings, identities)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 100_000  # all similarities would be 16 MB


def test_perfect_and_random_embeddings():
    identities = np.repeat(np.arange(100), 4)
    groups = (identities % 2).astype(np.int32)
    perfect = identification.scores(np.eye(100, dtype=np.float32)[identities], identities, groups, ("f", "m"))
    for name in ("rank1_accuracy", "rank1_accuracy_f", "rank1_accuracy_m"):
        assert (perfect[name], perfect[f"{name}_interval"]) == (1.0, [1.0, 1.0])
    assert (perfect["rank1_gap"], perfect["rank1_gap_interval"]) == (0.0, [0.0, 0.0])
    assert (perfect["verification_auc"], perfect["true_accept_rate"]) == (1.0, 1.0)
    noise = identification.normalize(np.random.default_rng(9).normal(size=(400, 32)))
    random = identification.scores(noise, identities, groups, ("f", "m"))
    assert random["rank1_accuracy"] < 0.03  # 3 in 399 by chance
    assert abs(random["verification_auc"] - 0.5) < 0.04  # 600 pairs of one person: a standard error of 0.012
    assert random["true_accept_rate"] < 0.01
    low, high = random["rank1_gap_interval"]
    assert low <= 0 <= random["rank1_gap"] <= high


def test_a_test_set_that_cannot_be_scored_says_why():
    embeddings = identification.normalize(np.random.default_rng(10).normal(size=(6, 4)))
    with pytest.raises(UserError, match="no image of the group 'f' has another of the same person"):
        identification.scores(embeddings, np.array([0, 1, 2, 2, 3, 3]), np.array([0, 0, 1, 1, 1, 1]), ("f", "m"))
    with pytest.raises(UserError, match="no two test images are of two people"):
        identification.scores(embeddings, np.zeros(6, int), np.array([0, 0, 0, 1, 1, 1]), ("f", "m"))
    with pytest.raises(UserError, match="no two test images are of one person"):
        identification.verification(embeddings, np.arange(6))


def build(name: str, x: jax.Array, **options: Any) -> tuple[Any, Any]:
    model = models.build(name, outputs=7, head="cosine", **options)
    return model, jax.jit(lambda: model.init(jax.random.key(1), x, train=False))()


def apply(model: Any, variables: Any, x: jax.Array, **kwargs: Any) -> Any:
    return jax.jit(lambda variables, x: model.apply(variables, x, **kwargs))(variables, x)


@pytest.mark.parametrize(
    ("name", "options", "length"),
    [
        ("resnet18", {"width": 2, "stages": (1, 1)}, 4),
        ("resnet18", {"width": 2, "stages": (1, 1), "embedding": 12}, 12),
        ("cnn", {"channels": (2, 3)}, 4 * 4 * 3),
    ],
)
def test_features_are_what_the_cosine_head_is_given(name, options, length):
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 3))
    model, variables = build(name, x, **options)
    for train in (False, True):
        kwargs = {"train": train, "mutable": ["batch_stats"]}
        features, new = apply(model, variables, x, features=True, **kwargs)
        logits, expected = apply(model, variables, x, **kwargs)
        assert features.shape == (5, length)
        kernel = np.asarray(variables["params"]["CosineDense_0"]["kernel"])
        cosines = np.asarray(identification.normalize(features)) @ identification.normalize(kernel.T).T
        np.testing.assert_allclose(logits, cosines, rtol=1e-4, atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, new, expected)


def test_an_embedding_is_a_linear_layer_and_batch_norm_on_the_pooled_channels():
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 3))
    plain, without = build("resnet18", x, width=2, stages=(1, 1))
    model, variables = build("resnet18", x, width=2, stages=(1, 1), embedding=12)
    added = set(variables["params"]) - set(without["params"])
    (norm,) = (name for name in added if name.startswith("BatchNorm"))  # where weight decay looks for it
    assert added == {norm, "embedding_layer"}
    assert set(variables["params"]["embedding_layer"]) == {"kernel"}
    params = {name: value for name, value in variables["params"].items() if name not in added}
    params["CosineDense_0"] = without["params"]["CosineDense_0"]
    statistics = {name: value for name, value in variables["batch_stats"].items() if name != norm}
    pooled = apply(plain, {"params": params, "batch_stats": statistics}, x, train=False, features=True)
    linear = np.asarray(pooled @ variables["params"]["embedding_layer"]["kernel"])
    running = apply(model, variables, x, train=False, features=True)
    np.testing.assert_allclose(running, linear / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-6)  # mean 0, variance 1
    embeddings, new = apply(model, variables, x, train=True, features=True, mutable=["batch_stats"])
    np.testing.assert_allclose(embeddings.mean(0), np.zeros(12), atol=1e-5)
    moved: Any = new["batch_stats"][norm]["var"]
    assert np.asarray(moved).min() < 1  # its running statistics take part
    half, half_variables = build("resnet18", x, width=2, stages=(1,), embedding=12, dtype="bfloat16")
    assert apply(half, half_variables, x, train=False, features=True).dtype == jnp.float32


def test_a_strided_stem_takes_every_second_pixel():
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    _, variables = build("resnet18", x, width=2, stages=(1,))
    model = models.build("resnet18", outputs=7, head="cosine", width=2, stages=(1,), stem_stride=2)
    _, state = apply(model, variables, x, train=True, mutable=["batch_stats"])  # the same weights fit
    stem = convolve(x, variables["params"]["Conv_0"]["kernel"], 1)[:, ::2, ::2]
    statistics: Any = state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(statistics, 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_mistakes_in_the_embedding_name_the_key():
    wrong: tuple[dict[str, Any], ...] = ({"embedding": -1}, {"stem_stride": 0})
    for options in wrong:
        with pytest.raises(
            UserError, match=r"config.model.embedding=.*, config.model.stem_stride=.*: at least 0 and 1"
        ):
            models.build("resnet18", outputs=2, **options)
