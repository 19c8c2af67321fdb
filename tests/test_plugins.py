"""Parts that live outside of mbjax: each trains, named as `module:name` and by an entry point."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from mbjax import config as config_lib
from mbjax import config_files, losses, methods, options, sampling, train
from mbjax.types import UserError

ROOT = Path(__file__).parents[1]

# Each of these leaves a trace in the result that no part of mbjax would leave.
PARTS = '''
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from imblearn.over_sampling import RandomOverSampler

from mbjax import losses, methods
from mbjax.options import COUNT, FLAG, NUMBER, Option
from mbjax.types import Dataset, Split


class Swapped(RandomOverSampler):
    """Balances two classes and gives each example the other's label."""

    OPTIONS = (Option("swap", True, FLAG, "whether it does"),)

    def __init__(self, *, sampling_strategy="auto", random_state=None, swap=False):
        super().__init__(sampling_strategy=sampling_strategy, random_state=random_state)
        self.swap = swap

    def fit_resample(self, x, y):
        x, y = super().fit_resample(x, y)
        return x, 1 - y if self.swap else y


def first(y, strategy, key, *, few):
    """The first few examples, again and again."""
    return few, lambda start, count: ((start + np.arange(count)) % few).astype(np.int32)


first.OPTIONS = (Option("few", 24, COUNT, "how many"),)


def raised(logits, labels, *, level, class_counts):
    """Cross-entropy, and a constant."""
    return losses.cross_entropy(logits, labels) + level + 0 * class_counts[0]


raised.OPTIONS = (Option("level", 10.0, NUMBER, "the constant"),)


def build(problem, *, probe):
    def step(state, batches):
        rng = jax.random.fold_in(state.rng, state.step)
        state, metrics = problem.descend(state, batches["probe"], rng)
        return state, {**metrics, "tone": jnp.asarray(probe["tone"]), "share": batches["probe"]["y"].mean(dtype=float)}

    return methods.Method(init=problem.init, step=step)


probing = methods.Recipe(
    build,
    streams=methods.batch_of("probe"),
    epoch_stream="probe",
    sections={
        "probe": methods.stream_section("its batches", "class_balanced", 8, Option("tone", 3.0, NUMBER, "a tone"))
    },
)


def plain(problem):
    """A function alone: a method of the stream train."""
    return methods.METHODS["erm"].build(problem)


def brier(probabilities, labels):
    return ((probabilities[:, 1] - labels) ** 2).mean()


class Constant(nn.Module):
    """The same for every example."""

    outputs: int
    start: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        return self.param("bias", nn.initializers.constant(self.start), (1, self.outputs)) + jnp.zeros((len(x), 1))


Constant.OPTIONS = (Option("start", 0.25, NUMBER, "the bias at first"),)


def load(*, seed, rows=40):
    rng = np.random.default_rng(seed)

    def split(n):
        y = (np.arange(n) % 4 == 0).astype(np.int32)
        return Split(rng.normal(y[:, None] * 2.0, 1.0, (n, 3)).astype(np.float32), y)

    return Dataset({"train": split(rows), "test": split(40)}, ("no", "yes"), "points")


load.OPTIONS = (Option("rows", 80, COUNT, "of the training part"),)
'''
GROUPS = {
    "samplers": ("Swapped", "first"), "losses": ("raised",), "methods": ("probing", "plain"), "scores": ("brier",),
    "models": ("Constant",), "datasets": ("load",),
}  # fmt: skip


@pytest.fixture(params=["module", "entry point"])
def named(request, tmp_path, monkeypatch):
    """How a configuration names a part of a module outside of mbjax."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    if request.param == "module":
        return "my_parts:{}".format
    folder = tmp_path / "my_parts-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    lines = [f"[mbjax.{g}]\n" + "".join(f"own_{n} = my_parts:{n}\n" for n in names) for g, names in GROUPS.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return "own_{}".format


def trained(named, folder, **changes):
    """The result of a short run on the data set from outside, and its predictions and metrics."""
    config = config_lib.base()
    fast = {"updates": 40, "eval.every": 0.5, "optimizer.lr": 0.1, "method": "erm", "model.hidden": ()}
    config_lib.change(config, {"task": named("load"), **fast, **changes})
    result = train.train_and_evaluate(config, folder)
    rows = [json.loads(line)["updates"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return result, np.load(folder / "predictions.npz"), rows


def test_a_data_set(named, tmp_path):
    result, _, _ = trained(named, tmp_path / "run")
    assert result["data"]["source"] == "points"
    assert result["data"]["class_counts"]["train"] == [60, 20]  # its declared default, which is not the function's
    assert result["test"]["roc_auc"] > 0.9
    result, _, _ = trained(named, tmp_path / "other", **{"data.rows": 20})
    assert result["data"]["class_counts"]["train"] == [15, 5]


def test_a_resampler(named, tmp_path):
    result, _, _ = trained(named, tmp_path / "run", **{"train.sampler": named("Swapped")})
    assert result["test"]["roc_auc"] < 0.1
    settings = {"train.sampler": named("Swapped"), "train.swap": False}
    result, _, _ = trained(named, tmp_path / "other", **settings)
    assert result["test"]["roc_auc"] > 0.9


def test_an_index_sampler(named, tmp_path):
    settings = {"train.sampler": named("first"), "train.few": 6, "train.batch_size": 3, "epochs": 2, "updates": None}
    result, _, _ = trained(named, tmp_path / "run", **settings)
    assert result["updates"] == 2 * 6 // 3
    read = config_lib.base()
    config_lib.change(read, {"task": named("load"), "method": "erm", "train.sampler": named("first"), "updates": 1})
    stream = train.build(config_lib.validate(read)).streams["train"]
    assert stream.indices(1, 1, (16,)).tolist() == [[*range(16, 24), *range(8)]]


def test_a_loss(named, tmp_path):
    _, _, rows = trained(named, tmp_path / "run", **{"loss.name": named("raised")})
    assert 10 < rows[-1]["loss"] < 11
    _, _, rows = trained(named, tmp_path / "other", **{"loss.name": named("raised"), "loss.level": 5.0})
    assert 5 < rows[-1]["loss"] < 6
    with pytest.raises(TypeError, match="has no option gama"):
        losses.build(named("raised"), class_counts=[3, 1], gama=1.0)


def test_a_method_with_a_stream_of_its_own(named, tmp_path):
    settings = {"method": named("probing"), "probe.tone": 4.0, "epochs": 2, "updates": None}
    result, _, rows = trained(named, tmp_path / "run", **settings)
    assert result["updates"] == 2 * 120 // 8  # 60 of either class, 8 a batch
    assert rows[-1]["tone"] == 4.0
    assert rows[-1]["share"] == 0.5
    assert json.loads((tmp_path / "run" / "config.json").read_text())["probe"]["batch_size"] == 8
    config = config_lib.base()
    config.method = named("probing")
    valid = config_lib.validate(config)  # brings what is missing, unset keys too
    assert (valid.probe.tone, valid.probe.neighbors) == (3.0, None)
    result, _, _ = trained(named, tmp_path / "alone", method=named("plain"))
    assert result["test"]["roc_auc"] > 0.9


def test_a_stream_of_ones_own_draws_its_own_numbers():
    config = config_lib.base()
    dataset = train.build(config_lib.validate(config)).dataset
    options = {"seed": 0, "sampler": "natural", "classes": dataset.classes, "cache_dir": None}
    orders = [
        sampling.make_stream(dataset.train, name=name, **options).take(0, 60).tolist()
        for name in ("train", "support", "probe", "pretrain", "probes")
    ]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_a_model(named, tmp_path):
    settings = {"model.name": named("Constant"), "model.start": 2.0, "optimizer.lr": 1e-9}
    result, predictions, _ = trained(named, tmp_path / "run", **settings)
    assert result["test"]["roc_auc"] == 0.5
    np.testing.assert_allclose(predictions["probabilities"][:, 1], 1 / (1 + np.exp(-2.0)), rtol=1e-5)
    config = config_files.load(str(ROOT / "configs" / "digits.py"))
    config_lib.change(config, {"model.name": named("Constant")})
    assert config.model.to_dict() == {"name": named("Constant"), "start": 0.25}


def test_a_score(named, tmp_path):
    result, predictions, _ = trained(named, tmp_path / "run", **{"eval.scores": (named("brier"),)})
    expected = ((predictions["probabilities"][:, 1] - predictions["labels"]) ** 2).mean()
    assert result["test"][named("brier").rpartition(":")[2]] == pytest.approx(expected, rel=1e-5)


def test_the_command_line_and_its_help(tmp_path):
    (tmp_path / "my_parts.py").write_text(PARTS)
    command = [
        sys.executable, "-m", "mbjax.main", f"--config={ROOT}/configs/digits.py", "--config.method=my_parts:probing",
        "--config.probe.sampler=my_parts:first", "--config.model.name=my_parts:Constant", "--config.model.start=1.5",
        "--config.probe.few=7", "--config.probe.tone=2.5", "--config.loss.name=my_parts:raised", "--config.updates=3",
    ]  # fmt: skip

    def run(*more):
        return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True)

    done = run("--help-config")
    shown = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert shown["probe.tone"].split()[1:] == ["2.5", "3.0", "a", "tone"], done.stderr
    assert shown["loss.level"].split()[1:] == ["10.0", "10.0", "the", "constant"]
    done = run("--workdir=run")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["probe"]["few"], config["probe"]["tone"], config["model"]["start"]) == (7, 2.5, 1.5)
    done = run("--config.probe.tones=1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--config.probe.tones: there is no such key; did you mean --config.probe.tone?" in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", "nowhere:build", r"config.method='nowhere:build' cannot be imported: No module named 'nowhere'"),
        ("method", "mbjax.config:nothing", r"config.method='mbjax.config:nothing' cannot be imported: .* 'nothing'"),
        ("method", "mbjax.config:RENAMED", r"config.method='mbjax.config:RENAMED' is a dict, .*'mbjax.methods'"),
        ("loss.name", ":x", r"config.loss.name=':x' cannot be imported: "),
        ("query.sampler", "nowhere:x", r"config.query.sampler='nowhere:x' cannot be imported"),
        (
            "model.name",
            "net",
            r"config.model.name='net': choose one of mlp, cnn, resnet18, resnet34, resnet50, scattering, tabm, or "
            r"MODULE:NAME$",
        ),
        ("eval.scores", ("brier",), r"config.eval.scores=\('brier',\): names are needed"),
    ],
)
def test_what_cannot_be_found_is_one_clear_line(key, value, message):
    values = config_lib.base().to_dict()
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    with pytest.raises(UserError, match=message) as error:
        config_lib.validate(type("Loose", (ConfigDict,), {"to_dict": lambda self: values})())
    assert "\n" not in str(error.value)


def test_built_in_names_come_first_and_others_can_be_added(monkeypatch):
    assert methods.METHODS["erm"] is methods.BUILT_IN["erm"]
    monkeypatch.setitem(methods.METHODS, "mine", methods.BUILT_IN["erm"])
    assert "mine" in methods.METHODS
    assert "mine" in options.choice(methods.METHODS).describe()
    assert len(methods.METHODS) == len([*methods.METHODS])
