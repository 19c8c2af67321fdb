"""The command `mbjax`: its commands, how each of them ends, and what importing mbjax loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import mbjax
from mbjax import __main__ as command
from mbjax import console
from mbjax.types import UserError

ROOT = Path(__file__).parents[1]


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_mbjax_alone_lists_the_commands_with_one_line_each(monkeypatch, capsys):
    for arguments in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["mbjax", *arguments])
        command.main()
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[2:]] == ["train", "compare", "predict", "export", "report", "data"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["tran"], "'tran' is no command; did you mean train? mbjax --help lists the commands"),
        (["report"], "the following arguments are required: RUN|NAME=FOLDER,…; mbjax report --help lists the options"),
        (["report", "naive"], "naive: result.json is missing: no finished run: run it first, or leave it out"),
        (
            ["report", "a=b", "naive"],
            "'naive': write NAME=FOLDER,FOLDER,… for a table, or run folders alone for their ",
        ),
        (["report", "naive", "--priors"], "--priors is of tables: write NAME=FOLDER,FOLDER,…"),
        (["data", "fetch", "digits"], "argument task: invalid choice: 'digits'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys, arguments, line):
    monkeypatch.setattr(sys, "argv", ["mbjax", *arguments])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mbjax: error: {line}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("error", "status"), [(UserError("no"), 2), (KeyboardInterrupt(), 130)])
def test_how_a_command_without_a_configuration_ends(capsys, error, status):
    def fail(arguments):
        raise error

    with pytest.raises(SystemExit) as left:
        console.run(fail, [])
    assert left.value.code == status
    assert console.run(lambda arguments: None, []) is None
    assert capsys.readouterr().err.startswith("mbjax: ")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["train", "--config=configs/digits.py", "--config.optimiser.lr=0.1"],
            "--config.optimiser.lr: there is no such key; did you mean --config.optimizer.lr? ",
        ),
        (
            ["compare", "--out=nowhere", "--config=configs/loan.py:erm", "--config.lr=0.1"],
            "--config.lr: there is no such key; did you mean --config.optimizer.lr or --config.weight_net.lr? ",
        ),
        (["train", "--config=configs/digits.py", "--config.updates=many"], "flag --config.updates=many: "),
        (["train", "--config=configs/digits.py", "--confg.updates=3"], "Unknown command line flag 'confg.updates'"),
        (["train"], "flag --config=None: "),
    ],
)
def test_a_mistake_in_an_option_of_a_configuration_is_one_line_and_status_2(options, line):
    done = python("-m", "mbjax", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mbjax: error: {line}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_config_shows_the_values_of_this_command_line():
    done = python(
        "-m", "mbjax.main", "--config=configs/digits.py:erm", "--help-config", "--config.m2m.logit_weight=0.25"
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines() if line}
    assert shown["m2m.logit_weight"] == ["0.25", "0.5"]
    assert shown["method"] == ["'erm'", "'metabalance'"]
    assert shown["data.minority_count"] == ["5", "5"]


def test_help_is_no_failure():
    done = python("-m", "mbjax", "train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config=" in done.stdout


def test_the_public_face_is_lazy_and_complete():
    script = """
import sys, mbjax
loaded = lambda *names: [name for name in names if name in sys.modules]
assert not loaded("jax", "numpy", "pandas"), loaded("jax", "numpy", "pandas")
import mbjax.meta, mbjax.state
mbjax.make_meta_step, mbjax.TrainState
assert not loaded("pandas", "sklearn", "matplotlib", "imblearn"), "mbjax.meta loads what tables need"
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert set(mbjax.__all__) <= set(dir(mbjax))
    for name in mbjax.__all__:
        assert getattr(mbjax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'make_step'"):
        mbjax.make_step  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
