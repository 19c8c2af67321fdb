"""The scripts say how to use them, and what they lack."""

import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize("script", ["multi_gpu.sh", "multi_host.sh", "slurm.sbatch", "slurm_array.sbatch"])
def test_help(script):
    finished = subprocess.run([LAUNCH / script, "--help"], capture_output=True, text=True, check=True)
    assert f"launch/{script}" in finished.stdout
    assert "--config=" in finished.stdout
    assert "#" not in finished.stdout
    assert finished.stderr == ""


def test_a_python_that_is_not_there_is_named():
    finished = subprocess.run([LAUNCH / "test.sh", "--python=9.9"], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr == "there is no Python 9.9 here: install it, or pyenv install 9.9\n"
    found = subprocess.run([LAUNCH / "find_python.sh", VERSION], capture_output=True, text=True, check=True).stdout
    told = subprocess.run([found.strip(), "--version"], capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"Python {VERSION}.")
