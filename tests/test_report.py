"""Tables and figures of finished runs: every cell against a calculation of its own, on folders that a test writes."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mbjax import report
from mbjax.evaluation import calibration, metrics
from mbjax.report import __main__ as command
from mbjax.report import analysis, plots
from mbjax.types import UserError

CLASSES = ["airplane", "automobile", "bird", "cat"]
COUNTS = [5, 5000, 5, 5]
PRIORS = np.array(COUNTS) / sum(COUNTS)


def write_run(
    folder: pathlib.Path, *, seed: int, method: str = "erm", majority_logit: float = 1.0, skill: float = 1.0,
    counts: tuple[int, ...] = tuple(COUNTS), classes: list[str] = CLASSES, per_class: int = 50, updates: int = 100,
    protocol: str = "clean", evaluations: int = 4, **config: Any,
) -> dict[str, Any]:  # fmt: skip
    """A finished run's folder: logits are noise, plus `skill` at the label, plus `majority_logit` at the largest."""
    rng = np.random.default_rng([seed, *method.encode()])
    majority = int(np.argmax(counts))
    labels = np.repeat(np.arange(len(classes)), per_class).astype(np.int32)

    def predict(share: float) -> np.ndarray:
        logits = rng.normal(size=(len(labels), len(classes)))
        logits[np.arange(len(labels)), labels] += skill * share
        logits[:, majority] += majority_logit
        exp = np.exp(logits)
        return exp / exp.sum(1, keepdims=True)

    def score(probabilities: np.ndarray) -> metrics.Scores:
        return metrics.scores(probabilities, labels, majority_class=majority)

    folder.mkdir(parents=True)
    rows = []
    for k in range(1, evaluations + 1):
        step, probabilities = round(updates * k / evaluations), predict(k / evaluations)
        scores = {"train": score(predict(2 * k / evaluations)), "test": score(probabilities)}
        rows.append({"step": step, "updates": {"loss": 1 / k}, **scores})
    result = {
        "task": "cifar10", "method": method, "seed": seed, "updates": updates, "seconds": 90.0 + 60 * seed,
        "protocol": protocol,
        "data": {"classes": classes, "class_counts": {"train": list(counts), "test": [per_class] * len(classes)}},
        "test": rows[-1]["test"],
        "priors_test": score(calibration.shift_priors(probabilities, np.array(counts), np.ones(len(counts)))),
    }  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(
        json.dumps({"seed": seed, "method": method, "optimizer": {"lr": 0.1}, **config})
    )
    np.savez(folder / "predictions.npz", probabilities=probabilities.astype(np.float32), labels=labels)
    return result


@pytest.fixture
def groups(tmp_path):
    """Two groups of three seeds: their folders, and what their result.json hold."""
    options = {"naive": {"majority_logit": 3.0}, "metabalance": {"majority_logit": 0.5, "updates": 40}}
    folders = {name: [tmp_path / f"{name}{seed}" for seed in range(3)] for name in options}
    results = {
        name: [write_run(f, seed=seed, method=name, **options[name]) for seed, f in enumerate(folders[name])]
        for name in options
    }
    return folders, results


def cells(table: str) -> list[dict[str, str]]:
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def shown(values) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def shown_difference(a, b) -> str:
    difference = np.subtract(a, b)
    half = stats.t.ppf(0.975, len(a) - 1) * np.std(difference, ddof=1) / np.sqrt(len(a))
    return f"{difference.mean():+.4f} ± {half:.4f}"


def column(results, score: str, part: str = "test") -> list[float]:
    return [result[part][score] for result in results]


def test_the_table_of_balanced_image_runs(groups):
    folders, results = groups
    naive, metabalance = cells(report.compare_runs(report.load_runs(folders)))
    scores = ["accuracy", "majority_accuracy", "minority_accuracy", "log_loss", "calibration_error"]
    difference = "accuracy: Δ vs naive (95% CI)"
    assert list(naive) == ["run", "seeds", *scores, "updates", difference]
    for row, name in ((naive, "naive"), (metabalance, "metabalance")):
        assert {score: row[score] for score in scores} == {
            score: shown(column(results[name], score)) for score in scores
        }
    assert (naive["updates"], metabalance["updates"]) == ("100", "40")
    assert naive[difference] == ""
    pair = [column(results[name], "accuracy") for name in ("metabalance", "naive")]
    assert metabalance[difference] == shown_difference(*pair)


def test_balanced_accuracy_is_shown_where_it_differs(groups):
    folders, _ = groups
    file = folders["naive"][0] / "result.json"
    result = json.loads(file.read_text())
    result["test"]["accuracy"] += 0.01
    file.write_text(json.dumps(result))
    row, _ = cells(report.compare_runs(report.load_runs(folders)))
    assert "balanced_accuracy" in row
    assert "balanced_accuracy: Δ vs naive (95% CI)" in row


def test_score_and_reference_are_chosen(groups):
    folders, results = groups
    table = report.compare_runs(report.load_runs(folders), score="minority_accuracy", reference="metabalance")
    naive, metabalance = cells(table)
    title = "minority_accuracy: Δ vs metabalance (95% CI)"
    pair = [column(results[name], "minority_accuracy") for name in ("naive", "metabalance")]
    assert (naive[title], metabalance[title]) == (shown_difference(*pair), "")


def test_priors_are_rows_beside_their_groups(groups):
    folders, results = groups
    rows = cells(report.compare_runs(report.with_priors(report.load_runs(folders))))
    assert [row["run"] for row in rows] == [
        "naive", "naive, priors divided out", "metabalance", "metabalance, priors divided out",
    ]  # fmt: skip
    adjusted = column(results["naive"], "accuracy", "priors_test")
    assert rows[1]["accuracy"] == shown(adjusted)
    assert rows[1]["log_loss"] == shown(column(results["naive"], "log_loss", "priors_test"))
    difference = "accuracy: Δ vs naive (95% CI)"
    assert rows[1][difference] == shown_difference(adjusted, column(results["naive"], "accuracy"))
    assert rows[0]["accuracy"] == shown(column(results["naive"], "accuracy"))


def test_the_papers_figures(groups):
    folders, _ = groups
    runs = report.with_priors(report.load_runs({**folders, "ours": folders["naive"]}))
    figures = {
        row["run"]: row["the paper's accuracy"] for row in cells(report.compare_runs(runs, paper="cifar10_severe"))
    }
    assert figures["naive"] == "0.1614 ± 0.0024"
    assert figures["naive, priors divided out"] == "0.2278"
    assert figures["metabalance"] == "0.2988 ± 0.0017"
    assert figures["ours"] == figures["metabalance, priors divided out"] == ""
    names = {"os": folders["naive"], "Over-CutMix": folders["metabalance"]}
    os, cutmix = cells(report.compare_runs(report.load_runs(names), paper="cifar10_moderate"))
    assert (os["the paper's accuracy"], cutmix["the paper's accuracy"]) == ("", "0.1792 ± 0.0035")
    with pytest.raises(UserError, match="name a group after one of its rows, naive, "):
        report.compare_runs(report.load_runs({"ours": folders["naive"]}), paper="cifar10_severe")


def brute_force(probabilities, labels, target: float) -> set[float]:
    """The majority accuracies nearest to the target that any factor of class 1 reaches."""
    reached = set()
    for factor in np.exp(np.linspace(-20, 20, 20001)):
        scaled = probabilities.astype(np.float64) * np.where(np.arange(probabilities.shape[1]) == 1, factor, 1.0)
        reached.add(float((scaled[labels == 1].argmax(1) == 1).mean()))
    best = min(abs(accuracy - target) for accuracy in reached)
    return {accuracy for accuracy in reached if abs(accuracy - target) < best + 1e-12}


@pytest.mark.parametrize("target", [0.0, 0.2, 0.55, 0.6, 0.975, 1.0])
@pytest.mark.parametrize("kind", ["plain", "ties", "saturated"])
def test_match_majority_against_a_search(target, kind):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 40, 30])
    p = rng.dirichlet([0.5, 2.0, 0.5], len(labels)).astype(np.float32)
    if kind == "ties":
        p[labels == 1] = p[labels == 1][rng.integers(0, 5, 40)]
    if kind == "saturated":
        p[30:40], p[40:45] = [0, 1, 0], [1, 0, 0]  # never lost, never won
    matched = metrics.match_majority(p, labels, majority_class=1, majority_accuracy=target)
    np.testing.assert_allclose(matched.sum(1), 1.0)
    predicted = matched.argmax(1)
    assert (predicted[labels == 1] == 1).mean() == min(brute_force(p, labels, target))
    others = p[:, [0, 2]].argmax(1) * 2  # scaling one class leaves the order of the others alone
    np.testing.assert_array_equal(predicted[predicted != 1], others[predicted != 1])


def test_match_majority_takes_one_factor_in_the_middle_of_its_gap():
    p = np.array([[0.8, 0.2], [0.5, 0.5], [0.9, 0.1]])  # ratios 4, 1, 9
    matched = metrics.match_majority(p, np.array([1, 1, 0]), majority_class=1, majority_accuracy=0.5)
    factors = matched[:, 1] / matched[:, 0] / (p[:, 1] / p[:, 0])
    np.testing.assert_allclose(factors, 2.0)  # √(1 · 4): half-way between log 1 and log 4
    alone = np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(
        metrics.match_majority(alone, np.array([1, 1]), majority_class=1, majority_accuracy=0.1), alone
    )


def test_the_study_of_thresholds(groups):
    folders, results = groups
    text = report.match_table(report.load_runs(folders), "naive:metabalance", paper="cifar10_severe")
    assert "TEST data" in text
    assert "no classifier that anyone could deploy" in text
    before, after, target = cells(text)
    assert (before["run"], target["run"]) == ("naive", "metabalance")
    assert after["run"] == "naive, majority accuracy matched"
    assert after["the paper's accuracy"] == "0.2703"
    assert before["majority_accuracy"] == shown(column(results["naive"], "majority_accuracy"))
    # Reached to the example, so the cells are the same; the naive model wins minority examples by it.
    assert after["majority_accuracy"] == target["majority_accuracy"] != before["majority_accuracy"]
    minority = []
    for folder, other in zip(folders["naive"], results["metabalance"], strict=True):
        arrays = np.load(folder / "predictions.npz")
        p, labels = arrays["probabilities"].astype(float), arrays["labels"]
        wanted = round(other["test"]["majority_accuracy"] * 50)
        offsets = np.linspace(-10, 10, 20001)
        rest = np.log(p[:, [0, 2, 3]].max(1)) - np.log(p[:, 1])
        good = offsets[[int((rest[labels == 1] < o).sum()) == wanted for o in offsets]]
        p[:, 1] *= np.exp((good[0] + good[-1]) / 2)  # the middle of the gap, to the grid
        minority.append(np.mean([(p[labels == c].argmax(1) == c).mean() for c in (0, 2, 3)]))
    assert after["minority_accuracy"] == shown(minority)
    difference = shown_difference(column(results["metabalance"], "minority_accuracy"), minority)
    assert text.endswith(f": {difference} (95% CI of the paired difference).")


def test_variance_components_of_a_case_by_hand():
    # Row means 4 and 8, draw means 4, 5, 9, mean 6; residuals ±1, ∓1, 0. Draws: 2 (4 + 1 + 9) / 2 = 14; residual:
    # 4 / 2 = 2; so the draw's component is (14 − 2) / 2.
    scores = np.array([[3.0, 2.0, 7.0], [5.0, 8.0, 11.0]])
    assert analysis.variance_components(scores) == pytest.approx((6.0, 2.0))
    # Draw means alike: 0 less the residual's 8 is no variance.
    assert analysis.variance_components(np.array([[1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])) == pytest.approx((0.0, 2.0))


def test_variance_components_of_simulated_scores():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        rows, draws, own = rng.normal(0, 5, (12, 1)), rng.normal(0, 0.3, (1, 5)), rng.normal(0, 0.4, (12, 5))
        found.append(analysis.variance_components(rows + draws + own))
    np.testing.assert_allclose(np.mean(found, 0), [0.09, 0.16], rtol=0.1)


def test_images_drawn_by_seed_say_how_much_the_draw_makes(tmp_path):
    drawn = "imbalance 'severe': airplane 5, automobile 5000 (drawn by seed)"

    def write(name: str, seeds, note: str) -> list[pathlib.Path]:
        folders = [tmp_path / note[-8:-1] / f"{name}{seed}" for seed in seeds]
        for seed, folder in zip(seeds, folders, strict=True):
            result = write_run(folder, seed=seed, method=name, skill=1 + (seed % 3) / 2)  # the seed moves all rows
            result["data"]["notes"] = [note]
            (folder / "result.json").write_text(json.dumps(result))
        return folders

    folders = {name: write(name, range(first, 4), drawn) for name, first in (("a", 0), ("b", 1), ("c", 1), ("d", 3))}
    table = report.compare(folders)
    results = [[json.loads((f / "result.json").read_text()) for f in folders[name][-3:]] for name in "abc"]
    scores = np.array([column(row, "accuracy") for row in results])
    # Expected mean squares again, from sums of squares about each mean.
    total = ((scores - scores.mean()) ** 2).sum()
    by_row, by_draw = 3 * scores.mean(1).var() * 3, 3 * scores.mean(0).var() * 3
    own = (total - by_row - by_draw) / 4
    share = (by_draw / 2 - own) / 3
    share = share / (share + own)
    assert 0.3 < share < 1
    said = f"Of the variance of accuracy between runs of one row, {share:.0%} is common to all rows on the same draw "
    assert said in table
    assert table.endswith(f", {1 - share:.0%} is each run's own (3 rows on 3 draws).")
    assert "Of the variance of log_loss" in report.compare(folders, score="log_loss", priors=True)
    assert "variance" not in report.compare({name: folders[name] for name in "abd"})  # d has one seed
    assert "variance" not in report.compare({name: write(name, range(3), "the first of each class") for name in "abc"})


def test_figure_1_has_a_bar_of_each_group_and_class(groups):
    folders, results = groups
    figure = plots.class_figure(report.load_runs(folders))
    (axes,) = figure.axes
    bars: list[Any] = [container for container in axes.containers if hasattr(container, "patches")]
    assert [bar.get_label() for bar in bars] == ["naive", "metabalance"]
    for bar, name in zip(bars, ("naive", "metabalance"), strict=True):
        accuracy = np.array(column(results[name], "class_accuracy"))
        np.testing.assert_allclose([patch.get_height() for patch in bar.patches], accuracy.mean(0))
        (whiskers,) = bar.errorbar[2]
        lengths = [(top - bottom) / 2 for (_, bottom), (_, top) in whiskers.get_segments()]
        np.testing.assert_allclose(lengths, accuracy.std(0, ddof=1) / np.sqrt(3), atol=1e-12)
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["airplane\nn=5", "automobile\nn=5000"]
    assert [label.get_fontweight() for label in axes.get_xticklabels()] == ["normal", "bold", "normal", "normal"]


def test_figure_2_has_a_line_of_each_group_and_split(groups):
    folders, _ = groups
    figure = plots.training_figure(report.load_runs(folders))
    majority, minority = figure.axes
    assert len(majority.get_lines()) == len(minority.get_lines()) == 4
    assert [line.get_linestyle() for line in minority.get_lines()] == ["--", "-"] * 2
    assert minority.get_xlabel() == "share of the run"  # 100 updates and 40
    curves = [
        [[json.loads(line)["test"]["minority_accuracy"] for line in (f / "metrics.jsonl").read_text().splitlines()]]
        for f in folders["metabalance"]
    ]
    line: Any = minority.get_lines()[-1]
    np.testing.assert_allclose(line.get_xdata(), [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(line.get_ydata(), np.mean(curves, 0)[0])
    alone = plots.training_figure(report.load_runs({"naive": folders["naive"][:1]}))
    line = alone.axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [25, 50, 75, 100])


def test_the_authors_protocol_is_said_everywhere(groups, tmp_path):
    folders, _ = groups
    authors = [tmp_path / f"authors{seed}" for seed in range(2)]
    for seed, folder in enumerate(authors):
        write_run(folder, seed=seed, method="naive", protocol="authors")
    runs = report.load_runs({"naive": authors})
    said = "authors' protocol: random crop and flip at test time"
    assert report.compare_runs(runs).startswith(f"Tested by the {said}.\n\n|")
    assert said in report.match_table(runs, "naive:naive")
    for figure in (plots.class_figure(runs), plots.training_figure(runs)):
        assert figure.legends[0].get_title().get_text() == said
    assert said not in report.compare_runs(report.load_runs(folders))
    for mixed in ({"naive": [folders["naive"][0], *authors[1:]]}, {"naive": folders["naive"], "ours": authors}):
        with pytest.raises(
            UserError, match=r"authors[01] by 'authors', .*naive0 by 'clean': give them tables of their own"
        ):
            report.load_runs(mixed)


def test_the_command(groups, tmp_path, capsys):
    folders, _ = groups
    arguments = [f"{name}={','.join(map(str, paths))}" for name, paths in folders.items()]
    options = ["--priors", "--paper=cifar10_severe", "--match=naive:metabalance", f"--figures={tmp_path / 'a' / 'b'}"]
    command.main([*arguments, *options])
    runs = report.load_runs(folders)
    table = report.compare_runs(report.with_priors(runs), paper="cifar10_severe")
    study = report.match_table(runs, "naive:metabalance", paper="cifar10_severe")
    assert capsys.readouterr().out == f"{table}\n\n{study}\n"
    for name in ("figure1.png", "figure2.png"):
        assert (tmp_path / "a" / "b" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("damage", "options", "line"),
    [
        ("", ["--score=f1"], "--score=f1: choose one of accuracy, "),
        ("", ["--reference=none"], "no group is named 'none': choose one of naive, metabalance"),
        ("", ["--match=naive:over"], "no group is named 'over': choose one of naive, metabalance"),
        ("predictions.npz", ["--match=naive:metabalance"], "naive1: predictions.npz is missing: run it again"),
        (
            "metrics.jsonl",
            ["--figures={}/figures"],
            "metrics.jsonl is missing: no finished run: run it first, or leave it out",
        ),
        ("result.json", [], "result.json is missing: no finished run: run it first, or leave it out"),
        ("", ["--figures={}/naive0/result.json"], "result.json: File exists"),
        ("priors", ["--priors"], "has no priors_test: run it again in a new folder"),
        ("seed", [], "naive1: seed 0 is in 'naive' twice: leave one out"),
        ("config", [], "naive1: optimizer.lr differs from that of "),
        ("classes", ["--figures={}/figures"], "differ in their classes or in the largest"),
        ("seeds", ["--match=naive:metabalance"], "they have no seed in common: name folders of the same seeds"),
    ],
)
def test_mistakes_are_one_line(damage, options, line, groups, tmp_path, capsys):
    folders, _ = groups
    folder = folders["naive"][1]
    result = json.loads((folder / "result.json").read_text())
    if damage.endswith(("npz", "json", "jsonl")):
        (folder / damage).unlink()
    elif damage == "config":
        (folder / "config.json").write_text(json.dumps({"seed": 1, "method": "naive", "optimizer": {"lr": 0.2}}))
    elif damage == "seeds":
        folders = {"naive": folders["naive"][:1], "metabalance": folders["metabalance"][1:]}
    elif damage:
        result.pop("priors_test") if damage == "priors" else None
        result.update(seed=0) if damage == "seed" else None
        result["data"].update(classes=list("abcd")) if damage == "classes" else None
        (folder / "result.json").write_text(json.dumps(result))
    arguments = [f"{name}={','.join(map(str, paths))}" for name, paths in folders.items()]
    with pytest.raises(SystemExit) as status:
        command.main([*arguments, *(option.format(tmp_path) for option in options)])
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("mbjax: error: ")
    assert error.count("\n") == 1
    assert line in error
