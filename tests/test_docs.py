"""The documentation holds: its Python runs, its commands and links exist, and the site builds without a warning."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import yaml
from absl import flags
from ml_collections import config_flags

import mbjax

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
ROOT = pathlib.Path(mbjax.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
name_of = lambda file: str(file.relative_to(ROOT))  # noqa: E731


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language, each with the lines that come before it."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [(text[: block.start(1)].count("\n"), block[1]) for block in found]


def commands(text: str) -> list[str]:
    """The command lines of `sh` blocks and of inline code."""
    shell = "\n".join(code for _, code in blocks(text, "sh")).replace("\\\n", " ")
    inline = re.findall(r"`((?:launch/|(?:\.venv/bin/)?python -m )[^`\n]+)`", text)
    return [line for line in (*shell.splitlines(), *inline) if line.strip() and not line.startswith("#")]


def source_of(module: str) -> str:
    """What `python -m module` runs."""
    path = ROOT / module.replace(".", "/")
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def check(command: str) -> None:
    """Raises unless the script or module, its flags, its configuration file and the keys of that exist."""
    words = shlex.split(command, comments=True)
    if "-m" in words:
        start = words.index("-m") + 1
        source = source_of(words[start])
    else:
        start = next(i for i, word in enumerate(words) if word.startswith(("launch/", "tests/")))
        source = (ROOT / words[start]).read_text()
        source += "".join(map(source_of, set(re.findall(r"-m (mbjax\.\w+)", source)) - {"mbjax.report"}))
    options = [word for word in words[start + 1 :] if word.startswith("--")]
    settings = [option for option in options if option.startswith("--config")]
    for option in set(options) - set(settings):
        name = option[2:].partition("=")[0]
        assert re.search(rf'--{name}\b|"{name}"', source), f"{command}: no flag --{name}"
    if settings:
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["", *settings])
        values(["", *settings])
        values.config.to_dict()  # a file that cannot be loaded says so only when it is used


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("my_parts")  # as docs/extending.md calls its blocks
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    for lines, code in blocks(page.read_text(), "python"):
        exec(compile("\n" * lines + code, page, "exec"), names)
    if page.name == "README.md":
        assert int(names["state"].step) == 1
        assert names["metrics"]["query_loss"].shape == ()
    if page.name == "your-model.md":  # one update fits y = 1 at x = (1, 1, 1) better than none
        x, nnx, eqx = np.ones((4, 3), np.float32), names["nnx"], names["eqx"]
        mlp = eqx.nn.MLP(in_size=3, out_size="scalar", width_size=16, depth=1, key=jax.random.key(3))
        for before, after in ((names["Net"](nnx.Rngs(0)), names["net"]), (jax.vmap(mlp), jax.vmap(names["trained"]))):
            assert abs(float(after(x)[0]) - 1) < abs(float(before(x)[0]) - 1)
        assert float(abs(names["nnx_state"].model_state["norm"]["mean"][...]).max()) > 0  # two passes have fed it


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(page.read_text()):
        check(command)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("launch/nowhere.sh", FileNotFoundError),
        ("python -m mbjax.nowhere", FileNotFoundError),
        ("launch/local.sh --config=configs/digits.py --wordkir=runs/x", AssertionError),
        ("launch/local.sh --config=configs/digits.py --config.optimizer.rate=1.0", AttributeError),
        ("launch/local.sh --config=configs/digits.py --config.seed=one", flags.IllegalFlagValueError),
        ("launch/local.sh --config=configs/nowhere.py", OSError),
        ("sbatch --nodes=2 launch/slurm.sbatch --config=configs/digits.py --jobs=2", AssertionError),
    ],
)
def test_a_wrong_command_is_seen(command, error, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(error):
        check(command)


def test_the_front_page_opens_with_the_two_commands():
    first = commands((ROOT / "README.md").read_text())[:2]
    assert [command.partition("#")[0].strip() for command in first] == [
        "launch/local.sh --config=configs/digits.py", "launch/test.sh",
    ]  # fmt: skip


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_and_images_resolve(page):
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", page.read_text())
    missing = [target for target in targets if ":" not in target and not (page.parent / target).exists()]
    assert not missing


def test_every_table_of_results_is_shown():
    shown = re.findall(r"^```{include} results/(\S+)$", (ROOT / "docs" / "results.md").read_text(), re.M)
    assert sorted(shown) == sorted(file.name for file in (ROOT / "docs" / "results").glob("*.md"))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mbjax.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["title"].startswith("MetaBalance: High-Performance Neural Networks")


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", tmp_path]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert built.returncode == 0, built.stderr
    assert "make_meta_step" in (tmp_path / "api.html").read_text()
    assert "±" in (tmp_path / "results.html").read_text()
