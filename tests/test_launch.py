"""The scripts that start training on many devices say how to use them."""

import pathlib
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"


@pytest.mark.parametrize("script", ["multi_gpu.sh", "multi_host.sh", "slurm.sbatch", "slurm_array.sbatch"])
def test_help(script):
    finished = subprocess.run([LAUNCH / script, "--help"], capture_output=True, text=True, check=True)
    assert f"launch/{script}" in finished.stdout
    assert "--config=" in finished.stdout
    assert "#" not in finished.stdout
    assert finished.stderr == ""
