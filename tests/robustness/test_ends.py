"""How a command ends that is stopped before it trains, that the system refuses something, or whose file is wrong."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from mbjax import config_files, console
from mbjax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_training_is_one_line_and_claims_nothing(signum, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time\nprint('loading', flush=True)\ntime.sleep(600)\n")
    before = signal.signal(signum, signal.SIG_DFL)  # tests that nohup starts ignore SIGHUP, and so would this process
    process = subprocess.Popen(
        [sys.executable, "-m", "mbjax.main", f"--config={slow}", f"--workdir={tmp_path / 'run'}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signum, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signum)
    _, error = process.communicate(timeout=120)
    name = "" if signum == signal.SIGINT else f" by {signum.name}"
    assert error == f"mbjax: stopped{name}; the same command does the rest\n"
    assert process.returncode == 128 + signum
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "/a/b"),
            "error: /a/b: No space left on device; what was",
        ),
        (OSError(24, "Too many open files"), "error: Too many open files; what was written before is whole, and the"),
        (PermissionError(13, "Permission denied", "x" * 5000), "error: " + "x" * 300 + ": Permission denied; what was"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_status_2(error, line, capsys):
    def fail(arguments):
        raise error

    with pytest.raises(SystemExit) as left:
        console.run(fail, [])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mbjax: {line}")
    assert said.count("\n") == 1


def test_a_line_stays_readable_however_long_a_value_is(capsys):
    assert console.say("error: " + "a\nb" * 10_000 + " \ud800 end", 2) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 2100
    assert said.endswith("\\ud800 end\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def get_config(:\n", "line 1: SyntaxError: "),
        ("x = 1\n\ndef get_config():\n    return {}['key']\n", "line 4: KeyError: 'key'"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n", "AttributeError: "),
        ("\0", "null bytes"),
    ],
)
def test_a_configuration_file_that_fails_is_named_with_its_line(text, line, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        config_files.load(str(file))
    assert str(caught.value).startswith(f"--config={file}: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
