"""The page of a run and of a comparison: its numbers are read back, its text and figures are safe."""

import html.parser
import itertools
import json
import logging
import math
import pathlib
import re
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import mbjax
from mbjax import compare, config, data, report, train
from mbjax.compare import baselines, driver
from mbjax.compare import best as best_lib
from mbjax.compare import page as comparison_page
from mbjax.evaluation import identification, intervals, metrics
from mbjax.report import __main__ as command
from mbjax.report import examine, facts, theme
from mbjax.report.numbers import STYLES, Numbers
from mbjax.rows import ROWS
from mbjax.types import Dataset, Split, UserError

BAD, GOOD = "<b>ill</b>", "we$$ll"
SCRIPT = "<script>alert(1)</script>"


class Reader(html.parser.HTMLParser):
    """What a page holds: its numbers, its tags with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.numbers: list[tuple[str, float, str]] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text, self._open = "", ()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own: dict[str, Any] = dict(attrs)
        self.tags.append((tag, own))
        if tag == "data":
            self._open = (own["data-name"], float(own["value"]))

    def handle_data(self, data):
        self.text += data
        if self._open:
            self.numbers.append((*self._open, data))
            self._open = ()

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read_back(folder: pathlib.Path, **documents: Any) -> Reader:
    """A page whose every number is the one at its path in the folder's files, and shown as it is."""
    files = {"result": "result.json", "report": "report.json"}
    for name, file in files.items():
        if (folder / file).exists():
            documents.setdefault(name, json.loads((folder / file).read_text()))
    reader = Reader((folder / "report.html").read_text())
    find = Numbers(documents).find
    for path, value, shown in reader.numbers:
        assert find(path) == value, path
        text = shown.replace(",", "").replace("\N{MINUS SIGN}", "-").lstrip("+")
        ((number, unit),) = re.findall(r"^(-?[\d.]+(?:e-?\d+)?)\s*(%|s|ms|min|h)?$", text)
        scale = {"%": 100, "ms": 1000, "min": 1 / 60, "h": 1 / 3600}.get(unit, 1)
        digits = len(number.partition("e")[0].partition(".")[2])
        step = 10.0**-digits if "e" not in number else abs(float(number)) * 1e-5
        assert abs(value * scale - float(number)) <= 0.5001 * step, (path, value, shown)
    return reader


def check_page(folder: pathlib.Path, **documents: Any) -> Reader:
    """`read_back`, and that the page needs nothing else and says what it shows to who cannot see it."""
    reader = read_back(folder, **documents)
    assert not reader.of("script")
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        for link in (attributes.get(name, "") for name in ("src", "href", "xlink:href")):
            assert not link or link.startswith(("#", "data:")), (tag, link)
    assert "@import" not in (text := (folder / "report.html").read_text())
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", text))
    assert all(attributes["alt"] for attributes in reader.of("img"))
    figures = [own for own in reader.of("div") if own.get("role") == "img"]
    assert len(figures) == len(reader.of("figure")) > 0
    assert all(len(own["aria-label"]) > 20 for own in figures)
    assert all(own.get("scope") in ("row", "col") for own in reader.of("th"))
    assert len(reader.of("caption")) == len(reader.of("table"))
    assert all(own.get("tabindex") == "0" for own in reader.of("div") if own.get("class") == "scroll")  # by keyboard
    levels = [int(tag[1]) for tag, _ in reader.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [own["id"] for _, own in reader.tags if own.get("id")]
    assert len(ids) == len(set(ids))
    assert {"lang": "en"} in reader.of("html")
    for name in ("width=device-width",):
        assert any(name in own.get("content", "") for own in reader.of("meta"))
    return reader


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pathlib.Path:
    """A CSV file of 400 rows, 1 in 8 positive, with names that a page must not take for HTML or a formula."""
    rng = np.random.default_rng(0)
    x, town = rng.normal(size=400), rng.choice(["Oslo", "R&D", "Rome"], 400)
    label = np.where(x + (town == "Rome") + rng.normal(size=400) > 1.9, BAD, GOOD)
    file = tmp_path_factory.mktemp("table") / "my.csv"
    pd.DataFrame({"noise": rng.normal(size=400), SCRIPT: x, "town": town, "label": label}).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def run(table, tmp_path_factory) -> pathlib.Path:
    """A finished run on it, with a threshold."""
    settings = config.base()
    settings.update(task="tabular", method="erm", updates=200)
    settings.data.update(path=str(table), target="label", validation_share=0.25, test_share=0.3)
    settings.train.update(sampler="class_balanced")
    settings.eval.every = 100
    settings.decision.metric = "balanced_accuracy"
    folder = tmp_path_factory.mktemp("runs") / "<i>run"
    train.train_and_evaluate(settings, folder)
    return folder


def test_a_runs_page_can_be_read_back(run):
    reader = check_page(run)
    result = json.loads((run / "result.json").read_text())
    names = [name for name, _, _ in reader.numbers]
    counts = result["data"]["class_counts"]
    for part in ("train", "validation", "test"):
        assert f"result.data.class_counts.{part}.1" in names
    for name in ("result.test.roc_auc", "report.network.roc_auc.0", "result.decision.confusion.1.0",
                 "result.compile_seconds", "report.importance.mean.0", "report.costs.decision"):  # fmt: skip
        assert name in names, name
    assert BAD in reader.text
    assert SCRIPT in reader.text
    assert f"{counts['test'][1]} test rows of class “{BAD}”: its recall of" in reader.text
    drawn = {"roc", "precision_recall", "reliability", "costs", "importance", "training"}
    assert {file.stem for file in (run / "figures").iterdir()} == drawn
    for file in (run / "figures").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
    assert len(reader.of("svg")) == len(drawn)
    assert np.sum(result["decision"]["confusion"]) == sum(counts["test"])
    assert 0 < result["compile_seconds"] < result["seconds"]
    assert mbjax.__version__ in reader.text
    assert f"jax {result['versions']['jax']}" in reader.text


def test_a_page_says_what_is_true_of_its_predictions(run, table):
    """Verdict, threshold, mistakes and importance, each calculated anew from the table and the model."""
    about, result = (json.loads((run / name).read_text()) for name in ("report.json", "result.json"))
    model, frame = mbjax.load(run), pd.read_csv(table)
    dataset = data.load("tabular", seed=0, path=str(table), target="label", validation_share=0.25, test_share=0.3)
    rows = frame.iloc[np.asarray(dataset.test.origin) - 1]
    p = model.predict_proba(rows)
    y = (rows["label"] == BAD).to_numpy().astype(int)
    decided = p[:, 1] >= result["decision"]["threshold"]
    assert result["decision"]["confusion"] == sk.confusion_matrix(y, decided).tolist()
    assert about["majority_accuracy"] == pytest.approx(np.mean(y == 0))
    assert about["found"][1] == int(decided[y == 1].sum())
    error = np.where(y == 1, 1 / model.priors[1], 1 / model.priors[0])
    assert about["costs"]["decision"] == pytest.approx(np.where(decided != y, error, 0).mean())
    assert about["costs"]["never"] == pytest.approx(np.where(y == 1, error, 0).mean())
    missed, alarms = about["mistakes"]
    for kind, wrong in ((missed, (y == 1) & ~decided), (alarms, (y == 0) & decided)):
        assert kind["count"] == wrong.sum()
        own = np.sort(np.where(y == 1, p[:, 1], p[:, 0])[wrong])
        np.testing.assert_allclose([e["own"] for e in kind["examples"]], own[: examine.SHOWN], rtol=1e-5)
        for example in kind["examples"]:
            assert example["kind"] == "data row"
            (one,) = frame.iloc[[example["where"] - 1]]["label"]  # counted from 1
            assert one == (BAD if example["true"] == 1 else GOOD)
    # scikit-learn on the raw table draws the same shuffles: two features of a category move together.
    names = ["noise", SCRIPT, "town"]
    scorer: Any = lambda _, x, labels: sk.roc_auc_score(labels, model.predict_proba(x, priors="raw")[:, 1])  # noqa: E731
    fitted: Any = LogisticRegression()
    found: Any = permutation_importance(fitted, rows[names], y, scoring=scorer, n_repeats=5, random_state=0)
    expected = dict(zip(names, found.importances_mean, strict=True))
    shown = dict(zip(about["importance"]["columns"], about["importance"]["mean"], strict=True))
    assert shown == pytest.approx(expected, abs=1e-9)
    assert about["importance"]["columns"][0] == SCRIPT


def test_the_page_is_made_again_without_the_data(run, table, tmp_path, capsys):
    before = (run / "report.html").read_text()
    kept = (run / "report.json").read_text()
    moved = table.rename(table.with_suffix(".moved"))
    try:
        (run / "report.html").unlink()
        command.main([str(run)])
        assert capsys.readouterr().out == f"{run / 'report.html'}\n"
        assert (run / "report.html").read_text() == before
        (run / "report.json").unlink()
        report.write_page(run)
        assert "Columns and mistakes are not shown: config.data.path=" in check_page(run).text
        moved.rename(table)
        report.write_page(run)  # the data is there again: what was not seen is looked at
        assert (run / "report.html").read_text() == before
        frame = pd.read_csv(table)
        (run / "report.json").unlink()
        frame.assign(noise=0.0).to_csv(table, index=False)
        report.write_page(run)
        assert "holds other data now" in check_page(run).text
    finally:
        if not table.exists():
            moved.rename(table)
        elif "frame" in locals():
            frame.to_csv(table, index=False)
        (run / "report.json").write_text(kept)
        report.write_page(run)


def test_a_page_that_fails_costs_a_line_and_no_result(table, tmp_path, monkeypatch, caplog):
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(theme, "chart", fail)
    settings = config.base()
    settings.update(task="tabular", method="erm", updates=2)
    settings.data.update(path=str(table), target="label")
    with caplog.at_level(logging.WARNING, "mbjax"):
        result = train.train_and_evaluate(settings, tmp_path / "run")
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'run' / 'report.html'} was not made ([Errno 28] No space left on device); mbjax report "
        f"{tmp_path / 'run'} tries again"
    ]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"] == result["test"]
    with pytest.raises(UserError, match=r"result\.json is missing: no finished run"):
        report.write_page(tmp_path)


def test_images_of_several_classes(tmp_path):
    settings = config.base()
    settings.update(task="digits", method="erm", updates=100)
    settings.data.update(minority_count=20, majority_class=1)
    result = train.train_and_evaluate(settings, tmp_path / "run")
    reader, about = check_page(tmp_path / "run"), json.loads((tmp_path / "run" / "report.json").read_text())
    assert {file.stem for file in (tmp_path / "run" / "figures").iterdir()} == {
        "class_accuracy", "roc", "precision_recall", "reliability", "training",
    }  # fmt: skip
    dataset = data.load("digits", seed=0, minority_count=20, majority_class=1)
    p = mbjax.load(tmp_path / "run").predict_proba(dataset.test.x)
    wrong = p.argmax(1) != dataset.test.y
    (kind,) = about["mistakes"]
    assert kind["count"] == wrong.sum() > 0
    assert len(reader.of("img")) == min(kind["count"], 2 * examine.SHOWN)
    worst = kind["examples"][0]
    assert dataset.test.y[worst["where"] - 1] == worst["true"]
    assert worst["own"] == pytest.approx(p[np.arange(len(p)), dataset.test.y][wrong].min(), rel=1e-4)
    assert "Columns" not in reader.text
    error = result["calibration"]["class_calibration_error"]
    assert error[0] == pytest.approx(metrics.class_calibration_error(p[:, 0], dataset.test.y == 0))


@pytest.fixture
def people(tmp_path) -> pathlib.Path:
    """A run's folder of people, written by hand: of 12 people two pairs look alike."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 4)
    looks = rng.normal(size=(12, 16))
    looks[1], looks[7] = looks[0] + 0.05, looks[6] + 0.05
    embeddings = identification.normalize(looks[y] + 0.3 * rng.normal(size=(48, 16)))
    group = (y % 2).astype(np.int32)
    names = ("a.b", "<i>c")
    folder = tmp_path / "people"
    folder.mkdir()
    result = {
        "task": "faces", "method": "erm", "seed": 0, "updates": 3, "seconds": 1.25, "device": "cpu", "resumed_at": 0,
        "data": {
            "source": "drawn", "notes": [SCRIPT], "groups": names, "group_counts": {"train": [2, 9], "test": [24, 24]},
        },
        "test": identification.scores(embeddings, y, group, names), "choices": {},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps(config.base().to_dict(), default=str))
    np.savez(folder / "predictions.npz", embeddings=embeddings, labels=y, groups=group)
    images = rng.integers(0, 256, (48, 8, 8, 3), np.uint8)
    origin = np.array([f"person{person}/{number}.png" for number, person in enumerate(y)])
    test = Split(images, y.astype(np.int32), group, origin=origin)
    report.leave_page(folder, Dataset({"train": test, "test": test}, ("x",), "drawn", groups=names), None)
    return folder


def test_people(people):
    reader, about = check_page(people), json.loads((people / "report.json").read_text())
    scores = json.loads((people / "result.json").read_text())["test"]
    confused = about["confused"]
    assert confused["wrong"] == round((1 - scores["rank1_accuracy"]) * confused["probes"]) > 0
    pairs = [{e["where"].partition("/")[0] for e in pair["images"]} for pair in confused["pairs"]]
    assert {"person0", "person1"} in pairs[:2]
    assert {"person6", "person7"} in pairs[:2]
    assert sum(pair["times"] for pair in confused["pairs"]) == confused["wrong"]
    assert about["chance"] == pytest.approx(3 / 47)
    assert "result.test.rank1_gap_interval.0" in [name for name, _, _ in reader.numbers]
    assert "<i>c" in reader.text


# The numbers themselves.


def test_intervals_of_shares():
    for hits, of in ((0, 8), (3, 8), (8, 8), (41, 1000)):
        share, z = hits / of, 1.959964
        middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
        half = z / (1 + z**2 / of) * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
        assert intervals.wilson(hits, of) == pytest.approx([middle - half, middle + half], abs=1e-6)
    low, high = intervals.mean_of_shares([3, 41], [8, 1000])
    ends = [intervals.wilson(3, 8), intervals.wilson(41, 1000)]
    below = math.hypot(3 / 8 - ends[0][0], 0.041 - ends[1][0]) / 2
    assert low == pytest.approx((3 / 8 + 0.041) / 2 - below)
    assert high > (3 / 8 + 0.041) / 2
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):  # two classes of recalls 0.2 and 0.9, 10 and 200 rows
        low, high = intervals.mean_of_shares(rng.binomial([10, 200], [0.2, 0.9]), [10, 200])
        held += low <= 0.55 <= high
    assert 0.92 * 400 <= held <= 0.99 * 400


def test_intervals_of_a_ranking_are_those_of_scikit_learns_scores():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [80, 12])
    p = np.round(rng.normal(y, 1.0), 1)  # with ties
    found = intervals.ranking(p, y, times=1000, seed=1)
    drawn = []
    for _ in range(400):
        rows = np.concatenate([rng.choice(np.flatnonzero(y == c), (y == c).sum()) for c in (0, 1)])
        drawn.append([sk.roc_auc_score(y[rows], p[rows]), sk.average_precision_score(y[rows], p[rows])])
    for name, values in zip(("roc_auc", "average_precision"), np.transpose(drawn), strict=True):
        np.testing.assert_allclose(found[name], np.quantile(values, [0.025, 0.975]), atol=0.03)
    weights = np.ones((1, 92))
    order = np.argsort(-p, kind="stable")
    last = np.append(np.diff(p[order]) != 0, True)
    area, precision = intervals._areas(weights, y[order] == 1, last)[:, 0]
    assert area == pytest.approx(sk.roc_auc_score(y, p))
    assert precision == pytest.approx(sk.average_precision_score(y, p))


def test_the_calibration_error_of_a_class_by_hand():
    p, came = np.array([0.0, 0.1, 0.2, 0.3, 0.6, 1.0]), np.array([0, 0, 1, 0, 1, 1], bool)
    middle, hits, count = metrics.equal_mass_bins(p, came, bins=3)
    np.testing.assert_allclose(middle, [0.05, 0.25, 0.8])
    assert (hits.tolist(), count.tolist()) == ([0, 1, 2], [2, 2, 2])
    assert metrics.class_calibration_error(p, came, bins=3) == pytest.approx((0.1 + 0.5 + 0.4) / 6)
    same = metrics.equal_mass_bins(np.full(5, 0.2), np.array([1, 0, 0, 0, 0], bool))
    assert [part.tolist() for part in same] == [[pytest.approx(0.2)], [1], [5]]


@pytest.mark.parametrize("costs", [[[0, 1], [10, 0]], [[-1, 2], [5, 0.5]]])
def test_costs_over_thresholds_by_brute_force(costs):
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 40), np.round(rng.uniform(size=40), 1)
    thresholds, cost = facts.cost_curve(p, y, costs)
    expected = [np.mean([costs[a][int(b >= t)] for a, b in zip(y, p, strict=True)]) for t in thresholds]
    np.testing.assert_allclose(cost, expected)
    assert thresholds[-1] > p.max()


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("dark", [0, 1])
def test_contrast(dark):
    """WCAG 2.1 AA: 4.5 for text, 3 for what a figure draws."""
    colors = {name: luminance(pair[dark]) for name, pair in theme.PALETTE.items()}
    ratio = lambda a, b: (max(a, b) + 0.05) / (min(a, b) + 0.05)  # noqa: E731
    for ground in ("ground", "card", "warn"):
        for name, least in {"ink": 4.5, "muted": 4.5, "blue": 3, "red": 3, "green": 3, "grey": 3}.items():
            if ground != "warn" or name in ("ink", "red"):
                assert ratio(colors[name], colors[ground]) >= least, (name, ground)
    light = [pair[0] for pair in theme.PALETTE.values()]
    assert len(set(light)) == len(light)


def test_how_numbers_are_shown():
    shown = {
        ("percent", 0.3692): "37%", ("percent", 0.005): "0.5%", ("percent", 0.0): "0%", ("percent", 0.9954): "99.5%",
        ("percent", 0.023): "2.3%", ("seconds", 3.21): "3.2 s", ("seconds", 0.02): "20 ms",
        ("seconds", 100): "1.7 min", ("signed", -0.00316): "\N{MINUS SIGN}0.0032", ("count", 12345): "12,345",
    }  # fmt: skip
    assert {key: STYLES[key[0]](key[1]) for key in shown} == shown


# Comparisons.


def line(row: str, seed: int, test: float, *, validation: float | None = None, **more: Any) -> dict[str, Any]:
    held = {} if validation is None else {"validation": {"roc_auc": validation}, "validation_halves": [validation] * 2}
    return {
        "key": f"{row}{seed}", "row": row, "seed": seed, "settings": {}, "status": "ok", "seconds": 1.0 + seed,
        "code": "commit x", "data": "d", "test": {"roc_auc": test, "calibration_error": 0.1}, **held, **more,
    }  # fmt: skip


def compared(scores: dict[str, list[float]], **more: Any) -> comparison_page.Compared:
    lines = [line(row, seed, s, validation=s) for row, own in scores.items() for seed, s in enumerate(own)]
    given = {"rows": ROWS, "task": "mine", "select": "validation", "overlap": 0.0, "paper": {}, **more}
    return comparison_page.Compared([*lines, *given.pop("lines", [])], **given)


LOGISTIC = [0.80, 0.82, 0.81]


@pytest.mark.parametrize(
    ("scores", "use", "said"),
    [
        (  # above it, but not beyond the error
            {"logistic_regression": LOGISTIC, "naive": [0.79, 0.83, 0.83], "over": [0.5, 0.5, 0.5]},
            "logistic_regression",
            "Use logistic regression: test ROC-AUC 0.810 ± 0.025 (95%). No network is better beyond its error. The "
            "best network on validation data, naive, differs by +0.0067 ± 0.0379. 1 of the 2 other rows cannot be told "
            "from it: choosing among them changes the score by no more than 0.0067.",
        ),
        (
            {"logistic_regression": LOGISTIC, "boosting": [0.7, 0.7, 0.71], "metabalance": [0.83, 0.85, 0.841]},
            "metabalance",
            "Use MetaBalance: test ROC-AUC 0.840 ± 0.025 (95%). It is better than logistic regression, the best that "
            "is no network, beyond the error: +0.0303 ± 0.0014.",
        ),
        (
            {"naive": [0.8, 0.81, 0.82], "over": [0.81, 0.80, 0.83]},
            "naive",
            "Use naive: test ROC-AUC 0.810 ± 0.025 (95%). No other method is better beyond its error. The best other "
            "method on validation data, over-sampling, differs by +0.0033 ± 0.0287. Nothing you can choose here "
            "changes the score by more than 0.0033: no other row can be told from it.",
        ),
        (
            {"logistic_regression": [0.8], "naive": [0.9]},
            "naive",
            "Use naive: test ROC-AUC 0.900. It is ahead of logistic regression on this one seed; one seed says "
            "nothing of the error, so run more (--seeds=5).",
        ),
        ({"over": [0.8, 0.9]}, "over", "Use over-sampling: test ROC-AUC 0.850 ± 0.635 (95%)."),
    ],
)
def test_the_answer(scores, use, said, tmp_path):
    about = comparison_page.write(tmp_path, compared(scores))
    assert (about["use"], about["answer"]) == (use, said)
    reader = check_page(tmp_path)
    assert said in " ".join(reader.text.split()).replace(" .", ".")
    best = next(row for row in about["rows"] if row["name"] == use)
    assert best["mean"] == pytest.approx(np.mean(scores[use]))
    assert best["seconds"] == pytest.approx(np.mean([1.0 + seed for seed in range(len(scores[use]))]))
    means = [row["mean"] for row in about["rows"]]
    assert means == sorted(means, reverse=True)


def test_the_answer_is_chosen_on_validation_data_and_says_so():
    scores = {"logistic_regression": LOGISTIC, "naive": LOGISTIC, "over": [0.90, 0.92, 0.91]}
    lines = [line(row, seed, s, validation={"over": 0.1}.get(row, s)) for row, own in scores.items()
             for seed, s in enumerate(own)]  # fmt: skip
    about = comparison_page.facts_of(compared({}, lines=lines))
    assert (about["use"], about["rival"], about["by"]) == ("logistic_regression", "naive", "validation")
    assert about["above"] == ["over"]
    tested = comparison_page.facts_of(compared({}, lines=lines, select="test"))
    assert (tested["use"], tested["by"]) == ("over", "test")


def test_a_comparisons_page(tmp_path):
    failed = {"key": "x", "row": "smote", "seed": 0, "settings": {}, "status": "failed", "reason": SCRIPT, "code": "c"}
    scores = {"logistic_regression": LOGISTIC, "naive": [0.7, 0.71, 0.72], "metabalance": [0.7, 0.72, 0.74]}
    about = comparison_page.write(
        tmp_path, compared(scores, lines=[failed], paper={"naive": (0.655, None)}, overlap=0.25)
    )
    reader = check_page(tmp_path)
    assert SCRIPT in reader.text
    assert "the paper's ROC-AUC" in reader.text
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "report.html").read_text().partition("</thead>")[0]
    assert first.count('<th scope="col"') <= 7
    (control,) = about["controls"]
    d = np.subtract(scores["metabalance"], scores["naive"])
    assert control["mean"] == pytest.approx(d.mean())
    assert control["half"] == pytest.approx(4.302653 * d.std(ddof=1) * np.sqrt(1 / 3 + 0.25), rel=1e-6)
    alone = comparison_page.facts_of(compared(scores))
    assert "paper" not in alone["rows"][0]
    assert comparison_page.leave(tmp_path / "none", compared({}, lines=[failed])) == {}


def test_the_winner_is_kept_and_predicts(table, tmp_path, monkeypatch, caplog):
    import skops.io  # pyright: ignore[reportMissingImports]

    caplog.set_level("INFO", "mbjax")
    tree = lambda seed, **settings: DecisionTreeClassifier(random_state=seed, **settings)  # noqa: E731 - a quick one
    monkeypatch.setitem(baselines.REFERENCES, "hist_gradient_boosting", tree)
    overrides = {"data.path": str(table), "data.target": "label", "updates": 20, "eval.every": 20}
    task = compare.Task("configs/tabular.py", overrides, tune=False)
    options: dict[str, Any] = {"seeds": [0], "out": tmp_path, "save_best": True}
    done = driver.complete(task, names=["logistic_regression_balanced"], **options)
    assert done.answer.startswith("Use logistic regression, class weights: test ROC-AUC ")
    check_page(tmp_path)
    frame = pd.read_csv(table)
    dataset = data.load("tabular", seed=0, path=str(table), target="label")
    own = LogisticRegression(class_weight="balanced", max_iter=5000).fit(dataset.train.x, dataset.train.y)
    priors = dataset.class_counts / len(dataset.train)
    expected = own.predict_proba(dataset.preprocessing.transform(frame)) * priors * 2
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(mbjax.load(tmp_path / "best").predict_proba(frame), expected, atol=1e-4)
    code = (tmp_path / "best" / "make.py").read_text()
    assert code.count("\n") <= 12
    names: dict[str, Any] = {}
    exec(code.replace('pd.read_csv("new.csv")', f"pd.read_csv({str(table)!r})"), names)
    np.testing.assert_allclose(names["model"].coef_, own.coef_, atol=1e-3)
    # Another winner takes its place: trees, which are kept as the lines that fit them and, by skops, as a pipeline.
    driver.complete(task, names=["boosting"], **options)
    best = tmp_path / "best"
    assert {file.name for file in best.iterdir()} == {"best.json", "make.py", "pipeline.skops"}
    assert mbjax.load(tmp_path / "best.old").predict_proba(frame).shape == (400, 2)  # somebody may use it
    code = (best / "make.py").read_text()
    assert "\nmodel = DecisionTreeClassifier(random_state=0)\n" in code
    trees = DecisionTreeClassifier(random_state=0).fit(dataset.train.x, dataset.train.y)
    expected = trees.predict_proba(dataset.preprocessing.transform(frame))
    pipeline = skops.io.load(
        best / "pipeline.skops", trusted=skops.io.get_untrusted_types(file=best / "pipeline.skops")
    )
    np.testing.assert_array_equal(pipeline.predict_proba(frame), expected)
    exec(code.replace('pd.read_csv("new.csv")', f"pd.read_csv({str(table)!r})"), names)
    np.testing.assert_array_equal(names["model"].predict_proba(names["new"]), expected)
    with pytest.raises(UserError, match=r"best has no model of mbjax's: make\.py there, or pipeline\.skops, predicts"):
        mbjax.load(best)
    assert f"data.load('tabular', seed=0, **{{'path': {str(table)!r}, 'target': 'label'}})" in code
    assert best_lib._public_module(HistGradientBoostingClassifier) == "sklearn.ensemble"
    monkeypatch.setitem(sys.modules, "skops", None)
    (best / "best.json").unlink()
    driver.complete(task, names=["boosting"], **options)
    assert {file.name for file in best.iterdir()} == {"best.json", "make.py"}
    assert (tmp_path / "best.old-2" / "pipeline.skops").exists()
    assert "with skops installed" in caplog.text
    driver.complete(task, names=["naive"], **options)
    assert json.loads((best / "result.json").read_text())["method"] == "erm"
    assert mbjax.load(best).predict_proba(frame).shape == (400, 2)
