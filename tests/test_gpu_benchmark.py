"""`python -m benchmarks.gpu --small` goes through all parts on a CPU, and its file is what the documentation says."""

import json
import pathlib

import jax
import pytest

from benchmarks import gpu, gpu_parts

SMALL = ["--small", "--minutes=1000"]  # when they are over, the process ends
README = pathlib.Path(gpu.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half of the time
    gpu.main([*SMALL, f"--out={file}"])
    jax.config.update("jax_disable_most_optimizations", False)
    return file


def test_every_part_is_measured_and_the_best_is_the_fastest(out):
    figures = json.loads(out.read_text())
    assert figures["machine"]["platform"] == "cpu"
    assert figures["machine"]["small"]
    parts = {part: {r["name"]: r for r in figures["rows"] if r["part"] == part} for part in ("rates", "grid", "fraud")}
    assert list(parts["rates"]) == ["tf32", "bfloat16", "float32", "memory"]
    assert [row["cell"]["conv"] for row in parts["grid"].values()] == ["lax", "matmul"]
    assert list(parts["fraud"]) == ["2 a chunk, first_order"]
    flop = {}
    for row in parts["grid"].values():
        assert row["fastest_ms"] <= row["ms"] == 2 * row["pair_ms"]
        flop[row["cell"]["grad_mode"]] = row["tflops"] * row["pair_ms"] * 1e9
        assert row["share"] == row["tflops"] / parts["rates"][row["cell"]["precision"]]["tflops"]
        assert row["kernels"] > 100
        chosen = figures["best"][f"{row['cell']['precision']}, {row['cell']['grad_mode']}"]
        assert chosen == {"ms": row["ms"], **row["cell"]}  # each is alone with its precision
    assert 1.5 < flop["mixed"] / flop["first_order"] < 2.2
    (training,) = (row for row in figures["rows"] if row["part"] == "cifar")
    assert training["data"] == "noise"
    assert training["updates"] % 2 == 0
    assert training["images_s"] == pytest.approx(1e3 * 2 * (4 + 6) / training["ms"])
    assert 0 <= training["waiting"] < 1
    assert ("PyTorch is not installed" in str(figures["notes"])) != any(r["part"] == "torch" for r in figures["rows"])


def test_what_the_file_holds_is_described(out):
    figures = json.loads(out.read_text())
    text = README.read_text()
    keys = {*figures, *figures["machine"], *(key for row in figures["rows"] for key in row)}
    assert not [key for key in keys if f"`{key}`" not in text]


def test_a_second_call_measures_nothing_again_and_none_of_another_machine(out, capsys):
    before = json.loads(out.read_text())
    gpu.main([*SMALL, f"--out={out}"])
    assert json.loads(out.read_text())["rows"] == before["rows"]
    assert "| grid: lax, 1 a chunk, tf32, mixed (" in capsys.readouterr().out
    other = out.with_name("other.json")
    other.write_text(json.dumps({**before, "machine": {**before["machine"], "jax": "0.0"}}))
    with pytest.raises(SystemExit):
        gpu.main([*SMALL, f"--out={other}"])
    assert f"--out={other} has figures of another machine" in capsys.readouterr().err


def test_what_is_there_is_kept_when_time_is_short_or_the_device_refuses(tmp_path):
    record = gpu.Record(tmp_path / "gpu.json", gpu_parts.SMALL, minutes=1)

    def refuse():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile trying to allocate")

    assert record.add("grid", "large", refuse)
    assert record.add("rates", "memory", lambda: {"gb_s": 1.0})
    record.seconds = -1.0
    assert not record.add("fraud", "late", lambda: {"ms": 1.0})
    rows = json.loads(record.out.read_text())["rows"]
    assert [row["name"] for row in rows] == ["large", "memory"]
    assert rows[0]["error"] == "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"
    record.seconds = 60.0
    assert record.add("grid", "large", lambda: {"ms": 2.0, "cell": {"precision": "tf32", "grad_mode": "mixed"}})
    assert "error" not in record.rows[-1]  # it is tried again


def test_the_grid_starts_with_the_default_and_changes_one_thing_at_a_time():
    cells = gpu_parts.PAPER.cells
    assert len(set(cells)) == 2 * 4 * 3 * 2
    assert cells[0] == gpu_parts.Cell("lax", 1, "tf32", "mixed")
    assert set(cells[1:5]) == {
        gpu_parts.Cell("matmul", 1, "tf32", "mixed"), gpu_parts.Cell("lax", 16, "tf32", "mixed"),
        gpu_parts.Cell("lax", 1, "bfloat16", "mixed"), gpu_parts.Cell("lax", 1, "tf32", "first_order"),
    }  # fmt: skip
