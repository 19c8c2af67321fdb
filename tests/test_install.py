"""The wheel: it holds every package and the configurations, and works in a folder without a checkout."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import numpy as np
import pandas as pd
import pytest
import setuptools

import mbjax
from mbjax import config_files
from mbjax.types import UserError

ROOT = pathlib.Path(mbjax.__file__).parents[1]
SOURCES = ("mbjax", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=900, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The `bin` of a new virtual environment with the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("install")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", folder, "--no-deps", f"--wheel-dir={wheels}", cwd=folder)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = wheels.glob("*.whl")
    run(*pip, f"--python={python}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    own = pathlib.Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_every_package_is_listed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    assert sorted(listed) == sorted([*setuptools.find_packages(str(ROOT), include=["mbjax*"]), "mbjax.configs"])


def test_the_wheel_trains_predicts_and_compares_without_a_checkout(scripts, tmp_path):
    home = run(scripts / "python", "-c", "import mbjax, mbjax.configs; print(mbjax.__file__)", cwd=tmp_path)
    assert home.startswith(str(scripts.parent))
    out = run(
        scripts / "mbjax", "train", "--config=digits:erm", "--config.updates=20", "--workdir=run", cwd=tmp_path
    )  # fmt: skip
    assert "balanced_accuracy" in out
    assert (tmp_path / "run" / "result.json").exists()
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()  # its templates are in the wheel
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    label = np.where(x[:, 0] + rng.normal(size=200) > 1, "yes", "no")
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "label": label}).to_csv(tmp_path / "my.csv", index=False)
    data = ["--config.data.path=my.csv", "--config.data.target=label", "--config.updates=20"]
    run(scripts / "mbjax", "train", "--config=tabular:erm", *data, "--workdir=table", cwd=tmp_path)
    run(scripts / "mbjax", "predict", "table", "my.csv", "--out=scores.csv", cwd=tmp_path)
    scores = pd.read_csv(tmp_path / "scores.csv")
    np.testing.assert_allclose(scores["probability_yes"] + scores["probability_no"], 1)
    np.testing.assert_allclose(scores["a"], x[:, 0])
    out = run(
        scripts / "mbjax", "compare", "--config=tabular", *data, "--methods=naive,logistic_regression", "--seeds=2",
        "--notune", "--out=compared", cwd=tmp_path,
    )  # fmt: skip
    assert "logistic regression" in out
    assert len((tmp_path / "compared" / "results.jsonl").read_text().splitlines()) == 4


def test_a_name_is_a_configuration_that_comes_with_mbjax(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(config_files.own_files()) == {file.stem for file in ROOT.glob("configs/[a-z]*.py")}
    assert config_files.find_file("digits") == str(ROOT / "configs" / "digits.py")
    assert config_files.find_file("cifar10:severe") == f"{ROOT / 'configs' / 'cifar10.py'}:severe"
    assert config_files.find_file("configs/digits.py:erm") == "configs/digits.py:erm"
    assert config_files.load("digits:erm").method == "erm"
    with pytest.raises(UserError, match=r"--config=digit: no such file, and none of celeba, cifar10, digits, "):
        config_files.find_file("digit")
    pathlib.Path("digits").write_text("mine")
    assert config_files.find_file("digits") == "digits"
