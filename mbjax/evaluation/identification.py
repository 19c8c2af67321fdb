"""Identification and verification of faces, or of anything else, by embeddings (section 4.3 of the paper)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax.types import UserError

FALSE_ACCEPTS = 1e-3
"""The rate of false accepts at which `scores` gives the rate of true accepts."""
_GRID = 1 << 20  # cells of a unit of similarity
_HELD = 10_000_000  # similarities that verification holds at a time: with their cells and copies some 250 MB


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings of length 1.

    Args:
      embeddings: `[n, d]`, real; those of an image and of its mirror image are to be summed before.

    Returns:
      `[n, d]`, float32; zeros where all of a row is 0.
    """
    exact = np.asarray(embeddings, np.float64)
    length = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    return (exact / np.where(length > 0, length, 1)[:, None]).astype(np.float32)


def nearest(embeddings: np.ndarray, *, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other embedding of each, by cosine similarity: exact, by brute force on JAX's default device.

    Two blocks meet at a time, and both take what they find: each similarity is computed once, and the device holds
    `block²` of them. All meetings are calls of one compiled function. Products are float32 throughout, also where a
    GPU would by default take fewer digits.

    Args:
      embeddings: `[n, d]`, rows of length 1, `n ≥ 2`.
      block: how many are compared with as many others at a time.

    Returns:
      `(index, similarity)`, `[n]` int32 and `[n]` float32. Of several that are equally near, the lowest index.

    Raises:
      ValueError: fewer than two embeddings, or some that are not finite.
    """
    count = len(embeddings)
    if embeddings.ndim != 2 or count < 2:
        raise ValueError(f"embeddings of shape {embeddings.shape}: at least two of them, [n, d], are needed")
    if not np.isfinite(embeddings).all():
        raise ValueError("some embeddings are not finite")
    block = min(block, count)
    padded = jnp.asarray(np.pad(embeddings, ((0, -count % block), (0, 0))), jnp.float32)
    found = jnp.full(len(padded), len(padded), jnp.int32), jnp.full(len(padded), -jnp.inf, jnp.float32)
    for first in range(0, count, block):
        for second in range(first, count, block):
            found = _meet(found, padded, first, second, count, block=block)
    index, similarity = (np.asarray(array)[:count] for array in found)
    return index, similarity


@functools.partial(jax.jit, static_argnames="block")
def _meet(
    found: tuple[jax.Array, jax.Array], embeddings: jax.Array, first: int, second: int, count: int, *, block: int
) -> tuple[jax.Array, jax.Array]:
    """What is found, `(index, similarity)`, once the blocks at `first` and `second` have met."""
    rows, columns = (jax.lax.dynamic_slice_in_dim(embeddings, start, block) for start in (first, second))
    similarity = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    row, column = (jnp.asarray(start, jnp.int32) + jnp.arange(block, dtype=jnp.int32) for start in (first, second))
    row, column = row[:, None], column[None]
    similarity = jnp.where((row == column) | (jnp.maximum(row, column) >= count), -jnp.inf, similarity)
    for start, axis, others in ((first, 1, column), (second, 0, row)):
        near = similarity.max(axis, keepdims=True)
        # Two plain reductions: XLA's CPU backend takes longer for an argmax.
        other = jnp.where(similarity == near, others, len(embeddings)).min(axis)
        near = near.reshape(-1)
        old_other, old_near = (jax.lax.dynamic_slice_in_dim(array, start, block) for array in found)
        nearer = (near > old_near) | ((near == old_near) & (other < old_other))
        other, near = jnp.where(nearer, other, old_other), jnp.where(nearer, near, old_near)
        update = jax.lax.dynamic_update_slice_in_dim
        found = update(found[0], other, start, 0), update(found[1], near, start, 0)
    return found


def rank1(embeddings: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the nearest other image of each image shows the same person (rank-1 identification).

    Every image is looked up among all others. One that is the only image of its person has no match to be found: it is
    no probe and counts neither as right nor as wrong, but it stays among the images that the others are compared with.

    Args:
      embeddings: `[n, d]`, rows of length 1.
      identities: whose image it is, `[n]`, integers.

    Returns:
      `(correct, probed)`, both `[n]` bool; `correct` is False where `probed` is.

    Raises:
      ValueError: as `nearest` has it, or as many embeddings as identities are not there.
    """
    identities = np.asarray(identities)
    if identities.shape != embeddings.shape[:1]:
        raise ValueError(f"embeddings of shape {embeddings.shape} do not fit identities of shape {identities.shape}")
    index, _ = nearest(embeddings)
    _, number, images = np.unique(identities, return_inverse=True, return_counts=True)
    return identities[index] == identities, images[number] > 1


def scores(
    embeddings: np.ndarray,
    identities: np.ndarray,
    groups: np.ndarray,
    group_names: Sequence[str],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Rank-1 accuracy in all and by group, with intervals, and verification.

    Intervals are 95% percentile intervals over people: as many identities as there are in the whole test set are drawn
    with replacement, `bootstrap` times, and each brings all of its images along. What was found for an image is kept,
    it is not looked up again among the drawn ones. The gap's interval is that of the difference between the two groups
    that are highest and lowest in the data, with its sign: it holds 0 where the data do not tell them apart.

    Args:
      embeddings: `[n, d]`, rows of length 1.
      identities: whose image it is, `[n]`, integers.
      groups: the image's group, `[n]`, numbers of `group_names`.
      group_names: the groups.
      bootstrap: how many times.
      seed: of the drawing.

    Returns:
      `rank1_accuracy` and `rank1_accuracy_<group>`, shares of 1; `rank1_gap`, the highest group's less the lowest's,
      and `rank1_gap_groups`, these two; of each accuracy and the gap `<name>_interval`, `[low, high]`; `probes`, how
      many images were looked up, by group; and what `verification` gives.

    Raises:
      UserError: a group without a probe (see `rank1`), or a single person.
    """
    correct, probed = rank1(embeddings, identities)
    groups = np.asarray(groups)
    probes = np.bincount(groups[probed], minlength=len(group_names))
    if not probes.all():
        name = group_names[int(probes.argmin())]
        raise UserError(f"no image of the group {name!r} has another of the same person: rank-1 needs some")
    _, person = np.unique(identities, return_inverse=True)
    hits, lookups = (_by_person(person, groups, part, len(group_names)) for part in (correct & probed, probed))
    values = _accuracies(hits.sum(0)[None], lookups.sum(0)[None])[0]
    highest, lowest = int(values[1:].argmax()), int(values[1:].argmin())
    drawn = _accuracies(*(draw_people(len(hits), bootstrap, seed) @ sums for sums in (hits, lookups)))
    result: dict[str, Any] = {}
    columns = {"rank1_accuracy": 0} | {f"rank1_accuracy_{name}": k + 1 for k, name in enumerate(group_names)}
    for name, column in columns.items():
        result |= {name: float(values[column]), f"{name}_interval": _interval(drawn[:, column])}
    return result | {
        "rank1_gap": float(values[highest + 1] - values[lowest + 1]),
        "rank1_gap_interval": _interval(drawn[:, highest + 1] - drawn[:, lowest + 1]),
        "rank1_gap_groups": [group_names[highest], group_names[lowest]],
        "probes": dict(zip(group_names, probes.tolist(), strict=True)),
        **verification(embeddings, identities),
    }


def draw_people(people: int, times: int, seed: int) -> np.ndarray:
    """How often each of `people` is drawn, with replacement, `[times, people]` float64; rows sum to `people`."""
    drawn = np.random.default_rng(seed).integers(people, size=(times, people))
    return np.stack([np.bincount(row, minlength=people) for row in drawn]).astype(np.float64)


def _by_person(person: np.ndarray, groups: np.ndarray, counted: np.ndarray, group_count: int) -> np.ndarray:
    """How many of a person's images in each group are counted, `[people, groups]` float64."""
    cells = np.bincount(
        person[counted] * group_count + groups[counted], minlength=(int(person.max()) + 1) * group_count
    )
    return cells.reshape(-1, group_count).astype(np.float64)


def _accuracies(hits: np.ndarray, lookups: np.ndarray) -> np.ndarray:
    """Of all and of each group, `[times, 1 + groups]`, of sums `[times, groups]`; NaN where nobody was looked up."""
    hits, lookups = (np.concatenate([sums.sum(1, keepdims=True), sums], axis=1) for sums in (hits, lookups))
    return np.divide(hits, lookups, out=np.full_like(hits, np.nan), where=lookups > 0)


def _interval(drawn: np.ndarray) -> list[float]:
    # A draw without a person of the group says nothing of it. Only tiny test sets have such draws.
    return np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975]).tolist()


def verification(embeddings: np.ndarray, identities: np.ndarray) -> dict[str, Any]:
    """How well a threshold on the similarity tells pairs of images of one person from pairs of two people.

    All pairs of distinct images count. Similarities are computed in float32 and rounded down to multiples of 2⁻²⁰,
    which is about what float32 gets wrong of them; everything else is exact, equal similarities included. What is held
    is 10 million similarities at a time, and how many pairs fell into each of the 2²¹ cells.

    Args:
      embeddings: `[n, d]`, rows of length 1.
      identities: whose image it is, `[n]`, integers.

    Returns:
      `verification_auc`, the area under the ROC curve; `true_accept_rate`, the share of pairs of one person at or above
      the lowest threshold that at most `FALSE_ACCEPTS` of the pairs of two people reach; `roc`, the same for rates from
      1e-6 to 1 in 121 steps, as `false_accept_rates` and `true_accept_rates`; `pairs`, how many of one person
      (`"same"`) and of two (`"different"`).

    Raises:
      UserError: no pair of one person, or no pair of two.
    """
    different, same = _pair_histograms(np.asarray(embeddings, np.float32), np.asarray(identities))
    totals = {"same": int(same.sum()), "different": int(different.sum())}
    if not min(totals.values()):
        of = "one person" if not totals["same"] else "two people"
        raise UserError(f"no two test images are of {of}: verification needs pairs of either kind")
    below = np.cumsum(different) - different
    area = (same * (below + different / 2.0)).sum() / (totals["same"] * totals["different"])
    # From the highest similarity down: pairs accepted at each threshold, none at the first.
    false_accepts, true_accepts = (np.concatenate([[0], np.cumsum(h[::-1])]) for h in (different, same))

    def true_accept_rates(rates: np.ndarray) -> np.ndarray:
        allowed = np.floor(rates * totals["different"] * (1 + 1e-12))  # a product just below an integer is that integer
        return true_accepts[np.searchsorted(false_accepts, allowed, side="right") - 1] / totals["same"]

    rates = np.logspace(-6, 0, 121)
    return {
        "verification_auc": float(area),
        "true_accept_rate": float(true_accept_rates(np.array([FALSE_ACCEPTS]))[0]),
        "roc": {"false_accept_rates": rates.tolist(), "true_accept_rates": true_accept_rates(rates).tolist()},
        "pairs": totals,
    }


def _pair_histograms(embeddings: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Pairs of distinct images in each cell of similarity, `[2, cells]` int64: of different people, of one person."""
    cells = 2 * _GRID + 1
    histogram = np.zeros(2 * cells, np.int64)
    block = max(1, _HELD // len(embeddings))
    for start in range(0, len(embeddings), block):
        rows = slice(start, start + block)
        similarity = embeddings[rows] @ embeddings[start:].T
        # Rounding may leave a similarity a little outside of [−1, 1].
        cell = np.clip((similarity + 1) * np.float32(_GRID), 0, 2 * _GRID).astype(np.int32)
        cell += (identities[rows, None] == identities[None, start:]) * np.int32(cells)
        width = len(cell)
        first, rest = cell[:, :width][np.triu_indices(width, 1)], cell[:, width:].ravel()
        histogram += np.bincount(first, minlength=2 * cells) + np.bincount(rest, minlength=2 * cells)
    return histogram.reshape(2, cells)
