"""Table 3 and the figure of the gap: every cell against a calculation of its own."""

from typing import Any

import numpy as np
import pytest

from mbjax.report import faces
from mbjax.types import UserError


def run(female: float, male: float, *, total: float = 0.9) -> dict[str, Any]:
    """The scores of a run, with intervals of which no side is as long as the other."""
    ahead = ["male", "female"] if male >= female else ["female", "male"]
    gap = abs(male - female)
    return {
        "rank1_accuracy": total,
        "rank1_accuracy_interval": [total - 0.02, total + 0.01],
        "rank1_accuracy_female": female,
        "rank1_accuracy_female_interval": [female - 0.03, female + 0.02],
        "rank1_accuracy_male": male,
        "rank1_accuracy_male_interval": [male - 0.04, male + 0.01],
        "rank1_gap": gap,
        "rank1_gap_interval": [gap - 0.05, gap + 0.01],
        "rank1_gap_groups": ahead,
    }


def cells(table: str) -> list[dict[str, str]]:
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_row_of_several_seeds_has_means_and_standard_errors():
    runs = [run(0.80, 0.90, total=0.85), run(0.84, 0.90, total=0.88), run(0.91, 0.90, total=0.91)]
    (row,) = cells(faces.table3({"naive": runs}))
    assert row == {
        "run": "naive",
        "seeds": "3",
        "total": "0.8800 ± 0.0173",  # 0.03 / √3
        "female": "0.8500 ± 0.0321",  # deviations −5, −1, 6: √(62 / 2 / 3)
        "male": "0.9000 ± 0.0000",
        "gap": "0.0500 ± 0.0321",  # 10, 6, −1: the sign stays
    }


def test_a_single_seed_has_its_bootstrap_interval_and_the_gap_its_sign():
    table = faces.table3({"a": [run(0.80, 0.90)], "b": [run(0.92, 0.90)]})
    first, second = cells(table)
    assert first["total"] == "0.9000 [0.8800, 0.9100]"
    assert first["female"] == "0.8000 [0.7700, 0.8200]"
    assert first["male"] == "0.9000 [0.8600, 0.9100]"
    assert first["gap"] == "0.1000 [0.0500, 0.1100]"
    assert second["gap"] == "-0.0200 [-0.0300, 0.0300]"  # female less male: 2 [−3, 3], turned around
    assert "in brackets" in table
    assert "standard error" not in table
    assert table.endswith("The gap is male minus female.")


def test_rows_of_three_seeds_have_their_paired_difference_from_a_reference():
    totals = {"naive": [0.80, 0.84, 0.91], "over": [0.82, 0.88, 0.90, 0.5], "one": [0.7]}
    rows = {name: [run(0.8, 0.9, total=total) for total in values] for name, values in totals.items()}
    naive, over, one = cells(faces.table3(rows))
    column = "total: Δ vs naive (95% CI)"
    half = 4.302653 * np.std([0.02, 0.04, -0.01], ddof=1) / np.sqrt(3)  # Student's t of 2 degrees of freedom
    assert (naive[column], over[column], one[column]) == ("", f"+0.0167 ± {half:.4f}", "-0.1000 (one seed)")
    # Runs are paired by their seeds, whatever their order.
    seeds = {"naive": [7, 8, 9], "over": [9, 8, 7, 6], "one": [7]}
    naive, over, _ = cells(faces.table3(rows, seeds=seeds, reference="over"))
    column = "total: Δ vs over (95% CI)"
    half = 4.302653 * np.std([0.80 - 0.90, 0.84 - 0.88, 0.91 - 0.82], ddof=1) / np.sqrt(3)
    assert (naive[column], over[column]) == (f"-0.0167 ± {half:.4f}", "")
    with pytest.raises(UserError, match="no group is named 'under': choose one of naive, over, one"):
        faces.table3(rows, reference="under")


def test_the_papers_table_3_stands_beside_rows_of_its_names():
    rows = {name: [run(0.8, 0.9)] for name in ("Naive", "Over-sampling", "oversampling", "MetaBalance", "γ = 0")}
    naive, over, again, meta, control = cells(faces.table3(rows, paper=True))
    columns = [f"the paper's {column}" for column in ("total", "female", "male", "gap")]
    assert [naive[c] for c in columns] == ["0.9012", "0.8688", "0.9531", "0.0843"]
    assert [over[c] for c in columns] == [again[c] for c in columns] == ["0.8467", "0.7948", "0.9298", "0.1350"]
    assert [meta[c] for c in columns] == ["0.9190", "0.8956", "0.9565", "0.0609"]
    assert [control[c] for c in columns] == [""] * 4


def test_the_figure_has_the_groups_bars_their_errors_and_the_gap():
    figure = faces.gap_figure({"naive": [run(0.80, 0.90), run(0.84, 0.90)], "metabalance": [run(0.86, 0.90)]})
    (axes,) = figure.axes
    bars: list[Any] = [c for c in axes.containers if hasattr(c, "patches")]
    np.testing.assert_allclose([[bar.get_height() for bar in c] for c in bars], [[0.82, 0.86], [0.90, 0.90]])
    assert [c.get_label() for c in bars] == ["female", "male"]
    segments = [[line[:, 1] for line in c.errorbar.lines[2][0].get_segments()] for c in bars]
    np.testing.assert_allclose(segments, [[[0.80, 0.84], [0.83, 0.88]], [[0.90, 0.90], [0.86, 0.91]]])
    assert [text.get_text() for text in axes.texts] == ["gap 0.0800 ± 0.0200", "gap 0.0400 [-0.0100, 0.0500]"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["naive", "metabalance"]
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("rows", "groups", "message"),
    [
        ({"naive": []}, ("female", "male"), "'naive': no run of it was scored"),
        ({"naive": [run(0.8, 0.9)]}, ("young", "male"), "'naive': a run of it has no rank1_accuracy_young"),
    ],
)
@pytest.mark.parametrize("make", [faces.table3, faces.gap_figure])
def test_rows_that_cannot_be_shown_are_named(make, rows, groups, message):
    with pytest.raises(UserError, match=message):
        make(rows, groups=groups)
