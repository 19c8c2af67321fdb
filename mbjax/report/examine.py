"""What only data and model can tell about a run: which columns matter, which rows are wrong, who is confused."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from sklearn.inspection import permutation_importance

from mbjax.data.tables.columns import TableColumns
from mbjax.evaluation import calibration, identification, metrics
from mbjax.evaluation.decisions import Decision
from mbjax.types import Dataset, Split

Logits = Callable[[np.ndarray], np.ndarray]
"""A network's outputs, `[n, outputs]`, of its inputs, `[n, ...]`."""
REPEATS = 5
MOST_COLUMNS = 200
MOST_ROWS = 2000
SHOWN = 8  # mistakes of a kind
PAIRS = 10  # of people
_MOST_FACES = 6000
_THUMBNAIL = 64  # pixels


def examine(
    dataset: Dataset, logits: Logits | None, predictions: Mapping[str, np.ndarray], result: Mapping[str, Any]
) -> dict[str, Any]:
    """What the page shows beside what `result.json` and `predictions.npz` hold, as JSON can hold it.

    Args:
      dataset: what was trained and tested on.
      logits: the trained network's; None of people.
      predictions: of the test split.
      result: of `result.json`.
    """
    test = dataset.scored.get("test", dataset.test)
    if logits is None:
        return {"confused": confused_people(test, predictions["embeddings"])}
    p = calibrated(predictions["probabilities"], result)
    return {
        "images": len(test.x.shape) == 4,
        "importance": column_importance(test, dataset, logits),
        "mistakes": mistakes(test, p, Decision.from_dict(result["decision"])(p)),
    }


def calibrated(raw: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
    """What `mbjax predict` gives where the network gives `raw`, `[n, classes]`, by what `result.json` says."""
    about = result["calibration"]
    tempered = calibration.temper(np.asarray(raw, np.float64), about["temperature"])
    return calibration.shift_priors(tempered, np.array(about["sampled_priors"]), np.array(about["priors"]))


def blocks(dataset: Dataset) -> dict[str, list[int]]:
    """The features that each column became, by its name; nothing where the examples are no tables."""
    learned = dataset.preprocessing
    if isinstance(learned, TableColumns):
        found, at = {}, 0
        for column in (*learned.numbers, *learned.categories):
            found[column.name] = list(range(at, at + column.width))
            at += column.width
        return found
    shape = dataset.train.x.shape
    return {f"feature {place}": [place] for place in range(shape[1])} if len(shape) == 2 else {}


class _Gathered:
    """A classifier whose inputs are numbers of rows, one for each column: to shuffle a column is to shuffle these.

    So all features of a category move together, as scikit-learn's function would move the raw column.
    """

    def __init__(self, x: np.ndarray, columns: Sequence[Sequence[int]], logits: Logits):
        self._x, self._columns, self._logits = x, columns, logits

    def fit(self, *_: Any) -> None:
        """It is fitted."""

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Of `rows`, `[n, columns]`."""
        x = self._x.copy()
        own = np.arange(len(x))
        for place, features in enumerate(self._columns):
            if not np.array_equal(rows[:, place], own):
                x[:, features] = self._x[rows[:, place][:, None], features]
        return calibration.from_logits(self._logits(x))


def column_importance(test: Split, dataset: Dataset, logits: Logits) -> dict[str, Any]:
    """What the primary score loses on test rows where one column is shuffled: scikit-learn's permutation importance.

    Both scores that are primary do not depend on how frequent classes are, so of a large test part as many rows of each
    class are drawn.
    """
    columns = blocks(dataset)
    if not columns:
        return {"skipped": "these are no tables: shuffling one pixel says nothing"}
    if len(columns) > MOST_COLUMNS:
        return {"skipped": f"{len(columns)} columns, and more than {MOST_COLUMNS} would take long"}
    rng, each = np.random.default_rng(0), MOST_ROWS // len(dataset.classes)
    own = [np.flatnonzero(test.y == number) for number in range(len(dataset.classes))]
    rows = np.sort(np.concatenate([r if len(r) <= each else rng.choice(r, each, replace=False) for r in own]))
    network = _Gathered(np.asarray(test.x[rows]), [*columns.values()], logits)
    numbers = np.repeat(np.arange(len(rows))[:, None], len(columns), axis=1)
    found: Any = permutation_importance(
        network, numbers, test.y[rows], n_repeats=REPEATS, random_state=0,
        scoring=lambda model, x, y: metrics.primary_score(model.probabilities(x), y),
    )  # fmt: skip
    order = np.argsort(-found.importances_mean, kind="stable")
    return {
        "columns": [[*columns][place] for place in order],
        "mean": found.importances_mean[order].tolist(),
        "deviation": found.importances_std[order].tolist(),
        "rows": len(rows), "of": len(test), "repeats": REPEATS,
    }  # fmt: skip


def mistakes(test: Split, p: np.ndarray, decided: np.ndarray) -> list[dict[str, Any]]:
    """The wrongly decided test examples whose class got the least probability: those to look at.

    Args:
      test: the test split.
      p: probabilities, `[n, classes]`.
      decided: class numbers, `[n]`. Of two classes, misses of class 1 and false alarms are listed apart.
    """
    own, wrong = p[np.arange(len(p)), test.y], decided != test.y
    kinds = {"missed": test.y == 1, "false alarms": test.y == 0} if p.shape[1] == 2 else {"": test.y >= 0}
    lists = []
    for title, kind in kinds.items():
        rows = np.flatnonzero(wrong & kind)
        worst = rows[np.argsort(own[rows], kind="stable")][: SHOWN if title else 2 * SHOWN]
        examples = [
            {**_example(test, row), "true": int(test.y[row]), "own": float(own[row]), "decided": int(decided[row])}
            for row in worst.tolist()
        ]
        lists.append({"title": title, "count": len(rows), "examples": examples})
    return lists


def _example(test: Split, row: int) -> dict[str, Any]:
    """Where one finds an example, and its thumbnail if it is an image."""
    is_image = len(test.x.shape) == 4
    found: dict[str, Any] = {"kind": "test image" if is_image else "test row", "where": row + 1}
    if test.origin is not None:
        where = test.origin[row].item()
        found = {"kind": "file" if isinstance(where, str) else "image" if is_image else "data row", "where": where}
    if is_image and test.x.shape[-1] in (1, 3):
        found["image"] = thumbnail(np.asarray(test.x[np.array([row])])[0])
    return found


def thumbnail(image: np.ndarray) -> str:
    """An image, `[height, width, 1 or 3]`, uint8 or floats, as a PNG in a data URI."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def confused_people(test: Split, embeddings: np.ndarray) -> dict[str, Any]:
    """The pairs of people of whom images are most often taken for one another, each with an example.

    An image counts where its nearest other one is another person's, and where its own has another image.
    """
    rows = np.arange(len(test))
    if len(rows) > _MOST_FACES:
        rows = np.sort(np.random.default_rng(0).choice(rows, _MOST_FACES, replace=False))
    y, (index, similarity) = test.y[rows], identification.nearest(embeddings[rows])
    probed = np.bincount(y)[y] > 1
    wrong = np.flatnonzero(probed & (y[index] != y))
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in wrong.tolist():
        one, other = sorted((int(y[row]), int(y[index[row]])))
        pairs.setdefault((one, other), []).append(row)
    most = sorted(pairs.values(), key=lambda own: (-len(own), own[0]))[:PAIRS]
    shown = []
    for own in most:
        row = max(own, key=lambda number: similarity[number])
        images = [_example(test, int(rows[number])) for number in (row, int(index[row]))]
        shown.append({"times": len(own), "similarity": float(similarity[row]), "images": images})
    return {"pairs": shown, "wrong": len(wrong), "probes": int(probed.sum()), "images": len(rows), "of": len(test)}
