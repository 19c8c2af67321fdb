"""What code made a result: its commit, and the versions of the packages that it was computed with."""

import importlib.metadata
import pathlib
import platform
import subprocess

import mbjax

PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn", "pandas")


def commit() -> str:
    """The commit of the code, where it is a checkout, else its version."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return "commit " + subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {mbjax.__version__}"


def packages() -> dict[str, str]:
    """The versions of Python, mbjax and what it computes with, by name."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "mbjax": mbjax.__version__, **found}
