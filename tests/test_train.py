"""Whole runs: scores, folders, resuming to the bit, and what the user reads when something is wrong."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from mbjax import config as config_lib
from mbjax import data, losses, methods, models, report, train
from mbjax.state import TrainState, predicting_weights
from mbjax.train import checkpoint, loop
from mbjax.types import Dataset, Split, UserError

ROOT = pathlib.Path(__file__).parents[1]
REAL = os.environ.get("MBJAX_DATA_DIR", "")
needs_loan = pytest.mark.skipif(
    not REAL or not (pathlib.Path(REAL) / "loan_data.csv").exists(), reason="loan_data.csv is not in MBJAX_DATA_DIR"
)


def small_config(method: str = "metabalance", **overrides: Any):
    config = config_lib.base()
    config.method = method
    config.data.update(minority_count=5, test_count=20)
    config.model.update(hidden=(16, 16), dropout=(0.5, 0.0))
    config.query.sampler = "class_balanced"
    config.meta.update(steps=6, pairs_per_chunk=4)
    config.clean.share = 0.1
    config.m2m.pretrain = 0.1
    config.update(updates=30, updates_per_call=4)
    config.eval.every = 10
    config.update_from_flattened_dict(overrides)
    return config


def final_params(workdir, config):
    experiment = train.build(config_lib.validate(config))
    checkpoints = checkpoint.Checkpoints(
        pathlib.Path(workdir) / "checkpoints", keep=3, data=data.digest(experiment.dataset, ("train",))
    )
    state = checkpoints.restore(experiment.method.init(config.seed))
    checkpoints.close()
    assert int(state.step) == experiment.updates
    return jax.tree.map(np.asarray, (state.params, state.opt_state))


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def run_main(*arguments, cwd=ROOT, env=None, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "mbjax.main", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_a_run_learns_and_leaves_its_folder(method, tmp_path):
    config = small_config(method, updates=100 if method == "metabalance" else 1000, **{"eval.every": 0.5})
    config.model.update(hidden=(64,), dropout=())
    config.optimizer.lr = 0.05
    config.clean.share = 0.4  # two images of each class: with one, l2rw soon trains on little else
    result = train.train_and_evaluate(config, tmp_path)
    assert result["test"]["balanced_accuracy"] > 0.3  # 0.1 by chance
    assert len(result["test"]["class_accuracy"]) == 10
    assert result["data"]["class_counts"]["train"][0] == 5
    assert result["data"]["class_counts"]["test"] == [20] * 10
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [result["updates"] // 2, result["updates"]]
    assert rows[-1]["updates"]["loss"] < rows[0]["updates"]["loss"]
    assert rows[-1]["test"] == result["test"]
    assert json.loads((tmp_path / "config.json").read_text())["meta"]["steps"] == 6
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    again = train.train_and_evaluate(config, tmp_path)  # finished: nothing is trained again
    assert again == result


@pytest.mark.parametrize("loss", sorted(losses.LOSSES))
def test_every_loss_learns(loss, tmp_path):
    """One battery for all: re-weighted half-way, on a cosine head where the loss scales its logits."""
    config = small_config("drw", updates=600, updates_per_call=100, **{"eval.every": 600})
    config.model.update(hidden=(64,), dropout=(), head="cosine" if loss in ("ldam", "cosface") else "linear")
    config.loss.update(name=loss, deferred=0.5)
    config.optimizer.lr = 0.05
    result = train.train_and_evaluate(config, tmp_path)
    assert result["test"]["balanced_accuracy"] > 0.6


@pytest.mark.parametrize(
    ("method", "overrides", "metrics"),
    [
        ("erm", {}, {"loss": "train"}),
        ("mw_net", {"train.mix": "mixup"}, {}),  # runs
        ("metabalance", {}, {"query_loss": "query", "support_loss": "support"}),
        ("metabalance", {"parallel": "shard_map"}, {"query_loss": "query", "support_loss": "support"}),
        ("metabalance", {"support.loss": "cross_entropy"}, {"query_loss": "query", "support_loss": ""}),
    ],
)
def test_the_margin_grows_over_the_first_updates(method, overrides, metrics):
    """The losses of single updates against NumPy: of 12 updates the first 6 raise the margin."""
    config = small_config(method, updates=12, **{"meta.inner_lr": 0.0, "meta.steps": 3, **overrides})
    config.model.update(hidden=(8,), dropout=(), head="cosine")
    config.loss.update(name="cosface", margin=0.5, scale=4.0, gamma=0.0, margin_warmup=0.5)
    experiment = train.build(config_lib.validate(config))
    updates = train.make_updates(experiment, 1)
    apply: Any = experiment.model.apply
    for step, margin in ((0, 0.0), (1, 0.5 / 6), (3, 0.25), (6, 0.5), (11, 0.5)):
        state = experiment.method.init(0)
        params = jax.tree.map(np.array, state.params)
        ((_, _, found),) = updates(state.replace(step=state.step + step), [step + 1])
        assert np.isfinite(found["loss"][0])
        for metric, name in metrics.items():
            stream = experiment.streams[name or "support"]
            rows = stream.indices(step, 1, experiment.shapes[name or "support"]).ravel()
            cosines = np.asarray(apply({"params": params}, stream.x[rows], train=False), float)
            own = np.eye(cosines.shape[1])[stream.labels["y"][rows]]
            z = 4 * (cosines - margin * own) if name else cosines
            losses_of = np.log(np.exp(z).sum(1)) - (own * z).sum(1)
            assert found[metric][0] == pytest.approx(losses_of.mean(), rel=1e-5)


def test_epochs_are_passes_over_the_query_stream():
    config = small_config(epochs=3)
    config.updates = None
    experiment = train.build(config_lib.validate(config))
    # class_balanced: an epoch is as long as random over-sampling's, 10 classes as large as the largest
    per_epoch = 10 * int(experiment.dataset.class_counts.max())
    assert experiment.updates == -(-3 * per_epoch // (6 * config.query.batch_size))


def test_boundaries():
    assert train.boundaries(100, 0.25, 0) == [25, 50, 75, 100]
    assert train.boundaries(10, 4, 0) == [4, 8, 10]
    assert train.boundaries(10, 4, 4) == [8, 10]
    assert train.boundaries(3, 0.01, 0) == [1, 2, 3]


def test_calls_of_any_length_give_the_same_bits(tmp_path):
    params = []
    for per_call in (1, 7, 30):
        config = small_config(updates_per_call=per_call)
        train.train_and_evaluate(config, tmp_path / str(per_call))
        params.append(final_params(tmp_path / str(per_call), config))
    assert_same_bits(params[0], params[1])
    assert_same_bits(params[0], params[2])


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_every_method_goes_on_from_its_checkpoint_to_the_bit(method, tmp_path):
    config = small_config(method)
    result = train.train_and_evaluate(config, tmp_path)
    states = []
    for _ in range(2):
        experiment = train.build(config_lib.validate(config))
        checkpoints = checkpoint.Checkpoints(
            tmp_path / "checkpoints", keep=3, data=data.digest(experiment.dataset, ("train",))
        )
        state = checkpoints.restore(experiment.method.init(config.seed))
        checkpoints.close()
        states.append(jax.tree.map(np.asarray, state.replace(rng=jax.random.key_data(state.rng))))
        shutil.rmtree(tmp_path / "checkpoints" / "30")
        (tmp_path / "result.json").unlink()
        again = train.train_and_evaluate(config, tmp_path)
        assert again["resumed_at"] == 20
        assert again["test"] == result["test"]
    assert_same_bits(*states)


def test_training_compiles_once(caplog):
    experiment = train.build(config_lib.validate(small_config()))
    updates, state = train.make_updates(experiment, 4), experiment.method.init(0)
    with jax.log_compiles():
        for stops in ([10, 15], [23]):
            state = train.last_state(updates(state, stops))
            assert int(state.step) == stops[-1]
    assert caplog.text.count("Compiling jit(advance)") == 1


def test_no_call_goes_past_a_stop_and_a_closed_generator_leaves_no_thread():
    experiment = train.build(config_lib.validate(small_config("erm")))
    make = train.make_updates(experiment, 4)
    done = [(count, int(state.step)) for count, state, _ in make(experiment.method.init(0), [10, 11, 15])]
    assert done == [(4, 4), (4, 8), (2, 10), (1, 11), (4, 15)]
    state = experiment.method.init(0).replace(step=jnp.int32(8))
    updates = make(state, [10, 400])
    assert next(updates)[0] == 2
    assert any(thread.name == "prefetch" for thread in threading.enumerate())
    updates.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def two_classes(seed: int = 0) -> Dataset:
    """90 and 30 points, one to the right of the other."""
    rng = np.random.default_rng(seed)
    y = (np.arange(120) % 4 == 0).astype(np.int32)
    x = (rng.normal(size=(120, 3)) + 3 * y[:, None] * [1, 0, 0]).astype(np.float32)
    return Dataset({"train": Split(x[:80], y[:80]), "test": Split(x[80:], y[80:])}, ("no", "yes"), "points")


def test_a_data_set_of_ones_own_is_trained_on(tmp_path):
    config = small_config(task="mine", updates=50)
    result = train.train_and_evaluate(config, tmp_path, two_classes())
    assert result["task"] == "mine"
    assert result["data"]["class_counts"] == {"train": [60, 20], "test": [30, 10]}
    assert result["test"]["roc_auc"] > 0.9
    assert train.train_and_evaluate(config, tmp_path, two_classes()) == result
    with pytest.raises(UserError, match="holds a finished run on other data"):
        train.train_and_evaluate(config, tmp_path, two_classes(1))
    (tmp_path / "result.json").unlink()
    with pytest.raises(UserError, match="was trained on other data"):
        train.train_and_evaluate(config, tmp_path, two_classes(1))
    alone = dataclasses.replace(two_classes(), splits={"train": two_classes().train})
    with pytest.raises(UserError, match="points: there is no 'test' split among train"):
        train.build(config_lib.validate(config), alone)
    with pytest.raises(UserError, match=r"config.task='mine': choose one of"):
        train.build(config_lib.validate(config))


def test_a_method_of_ones_own_is_one_object_that_is_built_once(tmp_path, monkeypatch):
    problems = []

    def build(problem: methods.Problem, *, train: dict[str, Any]) -> methods.Method:
        problems.append((problem.updates, np.asarray(problem.class_counts).tolist(), train["batch_size"]))
        return methods.METHODS["erm"].build(problem)

    recipe = methods.Recipe(build, streams=methods.batch_of("train"), epoch_stream="train")
    monkeypatch.setitem(methods.METHODS, "mine", recipe)
    config = small_config("mine", epochs=2, **{"train.batch_size": 16, "train.sampler": "over"})
    config.updates = None
    result = train.train_and_evaluate(config, tmp_path, two_classes())
    assert result["updates"] == 2 * 120 // 16
    assert problems == [(15, [60, 20], 16)]


LONG = [
    "--config=configs/digits.py",
    *("--config.updates=400", "--config.eval.every=20", "--config.updates_per_call=7", "--config.meta.steps=8"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_main(*LONG, f"--workdir={folder}").returncode == 0
    return folder


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
def test_a_killed_run_resumes_to_the_bit(delay, whole, tmp_path):
    command, killed = LONG, tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "mbjax.main", *command, f"--workdir={killed}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (killed / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists(), "the run was over before it was killed"
    finished = run_main(*command, f"--workdir={killed}")
    assert finished.returncode == 0, finished.stderr
    result, expected = (json.loads((d / "result.json").read_text()) for d in (killed, whole))
    assert result["test"] == expected["test"]
    rows = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(20, 401, 20))
    config = _config_of(command)
    assert_same_bits(final_params(killed, config), final_params(whole, config))


def _config_of(command):
    namespace: dict = {}
    exec((ROOT / "configs/digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    for option in command[1:]:
        key, value = option.removeprefix("--config.").split("=")
        config.update_from_flattened_dict({key: int(value)})
    return config


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_goes_on(signum, tmp_path):
    command = ["--config=configs/digits.py", "--config.updates=100000", "--config.eval.every=50000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mbjax.main", *command, f"--workdir={tmp_path}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(4)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, stderr
    assert f"by {signum.name}; the same command resumes there" in stderr
    assert "Traceback" not in stderr
    saved = [int(d.name) for d in (tmp_path / "checkpoints").iterdir() if d.name.isdigit()]
    assert len(saved) == 1
    assert 0 < saved[0] < 100000


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    config = small_config()
    train.train_and_evaluate(config, tmp_path)
    expected = final_params(tmp_path, config)
    (tmp_path / "result.json").unlink()
    for file in (tmp_path / "checkpoints" / "30").rglob("*"):
        if file.is_file() and file.stat().st_size > 1:
            os.truncate(file, file.stat().st_size // 2)
    with caplog.at_level("WARNING"):
        result = train.train_and_evaluate(config, tmp_path)
    assert "checkpoint 30 is damaged" in caplog.text
    assert result["resumed_at"] == 20
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["10", "20", "30", "damaged-30"]
    assert_same_bits(final_params(tmp_path, config), expected)


def checkpoint_bytes(workdir):
    return {f: f.read_bytes() for f in (workdir / "checkpoints").rglob("*") if f.is_file()}


def test_a_run_whose_model_changed_under_the_same_config_is_refused(tmp_path, monkeypatch):
    config = small_config()
    train.train_and_evaluate(config, tmp_path)
    expected = final_params(tmp_path, config)
    (tmp_path / "result.json").unlink()
    before = checkpoint_bytes(tmp_path)
    build = models.build
    monkeypatch.setattr(models, "build", lambda *names, **options: build(*names, **{**options, "hidden": (16, 8)}))
    with pytest.raises(UserError, match=r"checkpoint 30 in .* is of another network .*16, 16\] there and"):
        train.train_and_evaluate(config, tmp_path)
    assert checkpoint_bytes(tmp_path) == before
    monkeypatch.undo()
    train.train_and_evaluate(config, tmp_path)
    assert_same_bits(final_params(tmp_path, config), expected)


def test_other_data_under_the_same_config_is_refused(tmp_path):
    table = tmp_path / "t.csv"
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "label": rng.integers(0, 2, 200)})
    frame.to_csv(table, index=False)
    config = table_config(table)
    train.train_and_evaluate(config, tmp_path / "w")
    (tmp_path / "w" / "result.json").unlink()
    frame.assign(a=-frame.a).to_csv(table, index=False)
    with pytest.raises(UserError, match="other data"):
        train.train_and_evaluate(config, tmp_path / "w")


def table_config(path, method="erm", **overrides):
    config = config_lib.base()
    config.task = "tabular"
    config.method = method
    config.data.update(path=str(path), target="label")
    config.updates = 20
    config.eval.every = 10
    config.update_from_flattened_dict(overrides)
    return config


def write_table(path, labels, **columns):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=len(labels)), **columns, "label": labels})
    frame.to_csv(path, index=False)
    return path


BAD_TABLES = {
    "missing file": (lambda d: d / "nowhere.csv", {}, "nowhere.csv"),
    "missing target": (lambda d: write_table(d / "t.csv", [0, 1] * 50), {"data.target": "outcome"}, "outcome"),
    "one class": (lambda d: write_table(d / "t.csv", ["no"] * 50), {}, "no"),
    "no rows": (lambda d: write_table(d / "t.csv", []), {}, "row"),
    "class too small for SMOTE": (
        lambda d: write_table(d / "t.csv", ["yes"] * 5 + ["no"] * 95), {"train.sampler": "smote"}, "'yes'",
    ),
    "class without a test example": (
        lambda d: write_table(d / "t.csv", ["yes"] * 1 + ["no"] * 99), {}, "'yes'",
    ),
    "unknown method": (lambda d: write_table(d / "t.csv", [0, 1] * 50), {"method": "magic"}, "metabalance"),
    "unknown sampler": (lambda d: write_table(d / "t.csv", [0, 1] * 50), {"train.sampler": "smoot"}, "smote"),
    "unknown task": (lambda d: write_table(d / "t.csv", [0, 1] * 50), {"task": "mnist"}, "digits"),
    "unknown model": (lambda d: write_table(d / "t.csv", [0, 1] * 50), {"model.name": "vit"}, "mlp"),
    "a learning rate below 0": (lambda d: write_table(d / "t.csv", [0, 1] * 50), {"optimizer.lr": -1.0}, "lr"),
    "NaN loss": (
        lambda d: write_table(d / "t.csv", [0, 1] * 50),
        {"optimizer.lr": 1e30, "optimizer.weight_decay": 1.0, "updates": 100}, "at update",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_input_is_one_clear_line(case, tmp_path):
    make, overrides, named = BAD_TABLES[case]
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(table_config(make(tmp_path), **overrides), tmp_path / "w")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_non_finite_loss_names_its_step():
    with pytest.raises(UserError, match="nan at update 12:"):
        loop._check_finite(np.array([1.0, np.nan, np.inf]), 10)


def test_a_folder_of_another_config_is_refused(tmp_path):
    train.train_and_evaluate(small_config(), tmp_path)
    with pytest.raises(UserError, match=r"another config \(optimizer.lr 0.02 there, 0.5 here\)"):
        train.train_and_evaluate(small_config("metabalance", **{"optimizer.lr": 0.5}), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config=configs/digits.py", "--config.optimizer.rate=1"], "rate"),
        (["--config=configs/digits.py", "--config.method=magic"], "magic"),
        (["--config=configs/nowhere.py"], "nowhere.py"),
        (["--config=configs/digits.py", "--config.updates=many"], "many"),
        (["--config=configs/digits.py", "config.updates=3"], "config.updates=3"),
        (["--config=configs/loan.py", "--config.data.dir=/nonexistent"], "loan_data.csv"),
        ([], "config"),
    ],
)
def test_the_command_line_leaves_with_one_line_and_a_status(arguments, named, tmp_path):
    finished = run_main(*arguments, f"--workdir={tmp_path / 'w'}")
    assert finished.returncode == 2
    assert named in finished.stderr
    assert finished.stderr.startswith("mbjax: error: ")
    assert finished.stderr.count("\n") == 1


def test_report_pairs_runs_by_seed(tmp_path):
    groups = {m: [tmp_path / f"{m}{seed}" for seed in range(3)] for m in ("erm", "metabalance")}
    for method, folders in groups.items():
        for seed, folder in enumerate(folders):
            train.train_and_evaluate(small_config(method, seed=seed, updates=5, **{"eval.every": 5}), folder)
    runs = report.load_runs(groups)
    assert list(runs["run"]) == ["erm"] * 3 + ["metabalance"] * 3
    a, b = (runs[runs.run == name].set_index("seed").accuracy for name in ("metabalance", "erm"))
    mean, half, seeds = report.paired_difference(a, b, overlap=0.0)
    difference = (a - b).to_numpy()
    assert mean == pytest.approx(difference.mean())
    assert half == pytest.approx(4.302653 * difference.std(ddof=1) / np.sqrt(3), rel=1e-6)
    assert seeds == 3
    table = report.compare_runs(runs)
    assert table.count("\n") == 5  # head, rule, two rows, and below them what the intervals are
    assert "| metabalance | 3 |" in table
    with pytest.raises(UserError, match="differs from that of"):
        report.load_runs({"all": groups["erm"] + groups["metabalance"]})
    with pytest.raises(UserError, match=r"result\.json is missing"):
        report.load_runs({"erm": [tmp_path / "nowhere"]})


@needs_loan
@pytest.mark.parametrize(("method", "updates"), [("metabalance", 192), ("erm", 31925)])
def test_the_loan_task_on_real_data(method, updates, tmp_path):
    finished = run_main(f"--config=configs/loan.py:{method}", f"--workdir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["updates"] == updates
    assert result["data"]["class_counts"] == {"train": [6436, 1226], "test": [1609, 307]}
    assert 0.62 < result["test"]["roc_auc"] < 0.72


class OnHost:
    """Examples that are read by index; remembers how many were."""

    digest = "digits"

    def __init__(self, array: np.ndarray):
        self._array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: Any) -> np.ndarray:
        self.read += np.size(rows)
        return self._array[rows]


def test_examples_that_stay_on_the_host_train_to_the_same_bits(tmp_path):
    config = small_config()
    train.train_and_evaluate(config, tmp_path / "device")
    dataset = data.load(config.task, seed=config.seed, **config.data)
    splits = {name: Split(OnHost(split.x), split.y) for name, split in dataset.splits.items()}
    result = train.train_and_evaluate(config, tmp_path / "host", dataclasses.replace(dataset, splits=splits))
    read = splits["train"].x
    # 30 updates of 6 pairs of 24 and 16, and what three evaluations read, each a batch of 256, some rows twice.
    assert read.read == 30 * 6 * (24 + 16) + 3 * 256
    on_device = json.loads((tmp_path / "device/result.json").read_text())
    assert result["test"] == on_device["test"]
    assert_same_bits(*(dict(np.load(tmp_path / folder / "predictions.npz")) for folder in ("device", "host")))


def test_the_learning_rate_drops_to_a_tenth_and_batch_norm_does_not_decay():
    tx = methods.make_optimizer(
        lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.1, decay_batch_norm=False, schedule="step",
        drops=(0.5, 0.75), updates=8,
    )  # fmt: skip
    params = {"Dense_0": {"kernel": jnp.ones(2)}, "BatchNorm_0": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
    state, moved = tx.init(params), []
    gradients = jax.tree.map(jnp.zeros_like, params)
    for _ in range(8):
        changes, state = tx.update(gradients, state, params)
        moved.append([float(-leaf[0]) for leaf in jax.tree.leaves(changes)])
    np.testing.assert_allclose(np.array(moved)[:, 2], [0.1] * 4 + [0.01] * 2 + [0.001] * 2, rtol=1e-5)
    assert (np.array(moved)[:, :2] == 0).all()


OPTIMIZER = {"momentum": 0.0, "nesterov": False, "decay_batch_norm": True, "schedule": "constant", "drops": ()}


def follow(tx, gradient, updates):
    """The states, from the first one on, of weights that start at (1, −2)."""
    state = TrainState.create(params={"w": jnp.array([1.0, -2.0])}, tx=tx, rng=jax.random.key(0))
    states = [state]
    for _ in range(updates):
        changes, opt_state = tx.update({"w": gradient(state.params["w"])}, state.opt_state, state.params)
        state = state.replace(params=optax.apply_updates(state.params, changes), opt_state=opt_state)
        states.append(state)
    return states


@pytest.mark.parametrize("ema", [0.0, 0.6])
def test_a_sharpness_aware_step_is_that_of_the_gradient_uphill(ema):
    curvature = jnp.array([3.0, 0.5])
    gradient = lambda w: curvature * w  # noqa: E731
    tx = methods.make_optimizer(lr=0.1, weight_decay=0.2, updates=4, sam=0.7, ema=ema, **OPTIMIZER)
    states = follow(tx, gradient, 4)
    start, average = np.array([1.0, -2.0]), np.array([1.0, -2.0])
    for step in (1, 2):
        g = np.asarray(curvature) * start
        uphill = start + 0.7 * g / np.linalg.norm(g)
        np.testing.assert_allclose(states[2 * step - 1].params["w"], uphill, rtol=1e-6)
        if not ema:  # what predicts is where the step started, though the state is uphill
            np.testing.assert_allclose(predicting_weights(states[2 * step - 1])["w"], start, rtol=1e-6)
        start = start - 0.1 * (np.asarray(curvature) * uphill + 0.2 * start)
        np.testing.assert_allclose(states[2 * step].params["w"], start, rtol=1e-6)
        d = min(0.6, step / (step + 9))
        average = d * average + (1 - d) * start
        np.testing.assert_allclose(predicting_weights(states[2 * step])["w"], average if ema else start, rtol=1e-6)


def test_the_average_of_the_weights_predicts_and_changes_no_update():
    gradient = lambda w: w - jnp.array([0.5, 0.5])  # noqa: E731
    make = lambda ema: methods.make_optimizer(lr=0.3, weight_decay=0.0, updates=30, ema=ema, **OPTIMIZER)  # noqa: E731
    plain, averaged = follow(make(0.0), gradient, 30), follow(make(0.5), gradient, 30)
    expected = np.array([1.0, -2.0])
    for update, (one, other) in enumerate(zip(plain[1:], averaged[1:], strict=True), start=1):
        np.testing.assert_array_equal(one.params["w"], other.params["w"])
        d = min(0.5, update / (update + 9))
        expected = d * expected + (1 - d) * np.asarray(one.params["w"])
        np.testing.assert_allclose(predicting_weights(other)["w"], expected, rtol=1e-5)
    assert predicting_weights(plain[-1]) is plain[-1].params


@pytest.mark.parametrize("method", ["erm", "metabalance"])
def test_a_run_predicts_with_its_average_and_takes_sharpness_aware_steps(method, tmp_path):
    changes = {"method": method, "optimizer.ema": 0.9, "optimizer.sam": 0.05, "meta.adapt": ("Dense_1*",), "updates": 6}
    experiment = train.build(config_lib.validate(small_config(**changes)))
    state = train.last_state(train.make_updates(experiment, 6)(experiment.method.init(0), [6]))
    predictor, average = train.make_predictor(experiment, state), predicting_weights(state)
    jax.tree.map(np.testing.assert_array_equal, predictor.variables["params"], average)
    apart = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), average, state.params)
    assert min(jax.tree.leaves(apart)) > 0


def test_a_pattern_of_weights_to_adapt_that_fits_none_is_named():
    config = small_config()
    config.meta.adapt = ("Conv*",)
    with pytest.raises(UserError, match=r"config.meta.adapt: 'Conv\*' fits no weight of the model, which has 'Dense_0"):
        train.build(config_lib.validate(config))


def test_warm_up_trains_plainly_on_the_support_batches():
    config = small_config(**{"meta.warmup": 0.5, "optimizer.momentum": 0.0, "model.dropout": ()})
    experiment = train.build(config_lib.validate(config))
    state = experiment.method.init(0)
    batches = {}
    for name, shape in experiment.shapes.items():
        stream = experiment.streams[name]
        rows = stream.indices(0, 1, shape)[0]
        batches[name] = {"x": jnp.asarray(stream.x[rows]), "y": jnp.asarray(stream.y[rows])}
    loss_fn = losses.supervised_loss(experiment.model.apply)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches["support"])
    gradient = jax.grad(lambda p: loss_fn(p, {}, flat, jax.random.key(0))[0])(state.params)
    decay = config.optimizer.weight_decay
    expected = jax.tree.map(lambda p, g: np.asarray(p - config.optimizer.lr * (g + decay * p)), state.params, gradient)
    late = experiment.method.init(0).replace(step=jnp.int32(15))  # half of the 30 updates
    plain, _ = experiment.method.step(state, batches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain.params, expected)
    meta, _ = experiment.method.step(late, batches)
    difference = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), meta.params, expected)
    assert max(jax.tree.leaves(difference)) > 1e-3
