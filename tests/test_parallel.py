"""Updates spread over devices equal those of one device."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from mbjax import config as config_lib
from mbjax import data, models, train
from mbjax.devices import parallel
from mbjax.evaluation import evaluate
from mbjax.losses import supervised_loss
from mbjax.meta import make_meta_step
from mbjax.methods import Problem
from mbjax.state import TrainState
from mbjax.train import checkpoint
from mbjax.train import updates as updates_lib
from mbjax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
NETWORKS: dict[str, Any] = {
    "mlp": (models.build("mlp", outputs=1, hidden=(8, 6), dropout=(0, 0.5)), (5,)),
    "resnet": (models.build("resnet18", outputs=3, width=2, stages=(1,), dtype="float64"), (8, 8, 3)),
}


def mesh_of(groups):
    return Mesh(np.array(jax.devices()).reshape(groups, -1), (parallel.AXIS, parallel.BATCH))


@pytest.mark.parametrize("wrapper", ["shard_map", "pmap"])
def test_batches_of_unequally_many_pairs_are_refused_before_they_are_padded(wrapper):
    def loss_fn(params, model_state, batch, rng):
        return params * batch.mean(), (model_state, {})

    tx = optax.sgd(0.1)
    step = make_meta_step(loss_fn, tx, inner_lr=0.1, axis_name=parallel.AXIS)
    step = parallel.spread(step, mesh_of(2), wrapper=wrapper)
    for pairs in ((8, 4), (4, 8), (5, 3)):
        state = TrainState.create(params=jnp.array(1.0), tx=tx, rng=jax.random.key(0))
        with pytest.raises(
            ValueError, match=rf"support is \[{pairs[0]}, 6\] and query is \[{pairs[1]}, 6\]: the first"
        ):
            step(state, *(jnp.ones((n, 6)) for n in pairs))


@functools.cache  # of one device's, which several tests compare with
def updates(network, pairs, groups=0, *, wrapper: Any = "shard_map", chunk=80):
    """Parameters, the optimiser's state, running statistics and metrics after three updates in float64.

    On one device, or on all of them in so many groups.
    """
    model, shape = NETWORKS[network]
    rng = np.random.default_rng(0)
    batches = [
        {"x": jnp.array(rng.normal(size=(pairs, n, *shape))), "y": jnp.array(rng.integers(2, size=(pairs, n)))}
        for n in (6, 5)
    ]
    tx = optax.sgd(0.5, momentum=0.9)
    loss_fn = supervised_loss(model.apply)
    state = Problem(model, loss_fn, tx, np.zeros((1, *shape), np.float32), np.ones(2), 1).init(0)
    floats = (state.params, state.model_state, state.opt_state)
    params, model_state, opt_state = jax.tree.map(lambda x: x.astype(jnp.float64), floats)
    state = state.replace(params=params, model_state=model_state, opt_state=opt_state)
    mesh = mesh_of(groups) if groups else None
    axis_name = parallel.AXIS if mesh else None
    step = make_meta_step(loss_fn, tx, inner_lr=0.1, beta=0.5, pairs_per_chunk=chunk, axis_name=axis_name)
    if mesh:
        step = parallel.spread(step, mesh, wrapper=wrapper)
    state, batches = parallel.replicate((state, batches), mesh)
    for done in (1, 2, 3):
        new, metrics = step(state, *batches)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state, state.model_state)))
        assert int(new.step) == done
        state = new
    return jax.tree.map(np.asarray, (state.params, state.opt_state, state.model_state, metrics))


def assert_equal_to_rounding(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * max(1e-300, np.abs(y).max()))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("network", "pairs", "groups", "chunk", "wrapper"),
    [
        ("mlp", 80, 2, 80, "shard_map"), ("mlp", 81, 2, 8, "shard_map"), ("mlp", 81, 2, 80, "pmap"),
        ("mlp", 7, 1, 2, "shard_map"), ("resnet", 4, 2, 1, "shard_map"), ("resnet", 1, 1, 1, "shard_map"),
    ],
)  # fmt: skip
def test_two_devices_equal_one(network, pairs, groups, chunk, wrapper):
    one = updates(network, pairs, chunk=1 if network == "resnet" else 80)
    two = updates(network, pairs, groups, wrapper=wrapper, chunk=chunk)
    assert_equal_to_rounding(two, one)


EIGHT = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)  # compiles in half of the time
from tests import test_parallel as t
assert len(jax.devices()) == 8
network, chunk = {network!r}, 1 if {network!r} == "resnet" else 80
for pairs, groups in ((80, 8), (81, 8), (4, 4))[chunk == 1 :]:  # convolutions compile for long
    one = t.updates(network, pairs, chunk=chunk)
    t.assert_equal_to_rounding(t.updates(network, pairs, groups, chunk=chunk), one)
    t.assert_equal_to_rounding(t.updates(network, pairs, 8, chunk=chunk, wrapper="pmap"), one)
print("equal")
"""


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_eight_devices_equal_one(network):
    finished = run(EIGHT.format(network=network))
    assert finished.stdout == "equal\n", finished.stderr


def run(script: str, **environment: str):
    """Runs a script in a process of its own: the number of devices is fixed when JAX starts."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("wrapper", ["shard_map", "pmap"])
@pytest.mark.parametrize("pairs", [4, 5])
def test_every_pair_keeps_its_random_keys(pairs, wrapper):
    def loss_fn(params, model_state, batch, rng):
        # One-hot by pair, so that the metric lists the draws of all pairs.
        return params**2, (model_state, {"draw": pairs * jax.random.uniform(rng) * batch})

    tx = optax.sgd(0.1)
    state = lambda: TrainState.create(params=jnp.array(1.0), tx=tx, rng=jax.random.key(0))  # noqa: E731
    make = functools.partial(make_meta_step, loss_fn, tx, inner_lr=0.1)
    mesh = mesh_of(2)
    step = parallel.spread(make(axis_name=parallel.AXIS), mesh, wrapper=wrapper)
    _, spread = step(parallel.replicate(state(), mesh), jnp.eye(pairs), jnp.eye(pairs))
    _, one = make()(state(), jnp.eye(pairs), jnp.eye(pairs))
    assert len({*np.ravel(one["query_draw"]), *np.ravel(one["support_draw"])}) == 2 * pairs
    for name in ("query_draw", "support_draw"):
        np.testing.assert_allclose(spread[name], one[name], rtol=1e-12)


INITIAL = {"mlp": NETWORKS["mlp"], "cnn": (models.build("cnn", outputs=3), (8, 8, 3))}


def init_of(network):
    model, shape = INITIAL[network]
    tx = optax.sgd(0.1)
    return Problem(model, supervised_loss(model.apply), tx, np.zeros((1, *shape), np.float32), np.ones(2), 1).init


def test_choice_of_devices():
    def choose(name, network, **work):
        mesh = parallel.choose_mesh(name, init=init_of(network), **work)
        return mesh and mesh.devices.shape

    assert choose("none", "mlp", pairs=80, batch=16) is None
    assert choose("shard_map", "cnn", pairs=2, batch=16) == choose("pmap", "cnn", pairs=1, batch=16) == (2, 1)
    assert choose("shard_map", "cnn", pairs=1, batch=16) == (1, 2)
    assert choose("auto", "mlp", pairs=80, batch=16) == (2, 1)
    assert choose("auto", "mlp", pairs=15, batch=16) is None  # too few pairs to gain
    assert choose("auto", "cnn", pairs=80, batch=16) is None  # a convolution uses all cores by itself
    assert choose("shard_map", "mlp", batch=16) == (1, 2)
    assert choose("auto", "mlp", batch=128) is None  # as do the products of a large batch


@pytest.mark.parametrize(
    ("devices", "pairs", "groups"),
    [(8, 80, 8), (8, 81, 8), (8, 9, 8), (8, 7, 4), (8, 4, 4), (8, 3, 2), (8, 1, 1), (6, 4, 3), (7, 4, 1), (64, 80, 64)],
)
def test_groups_are_as_many_as_pairs_allow(devices, pairs, groups):
    assert parallel.count_groups(devices, pairs) == groups
    assert parallel.count_groups(devices, pairs, split=False) == devices


def config_of(**overrides):
    config = config_lib.base()
    config.data.update(minority_count=5, test_count=20)
    config.model.update(hidden=(16, 16), dropout=(0.5, 0.0))
    config.query.sampler = "class_balanced"
    config.meta.update(steps=7, pairs_per_chunk=80)
    config.update(updates=20, updates_per_call=4)
    config.eval.every = 10
    config.update_from_flattened_dict(overrides)
    return config


def final_params(folder, config):
    experiment = train.build(config_lib.validate(config))
    checkpoints = checkpoint.Checkpoints(
        folder / "checkpoints", keep=3, data=data.digest(experiment.dataset, ("train",))
    )
    state = checkpoints.restore(experiment.method.init(config.seed))
    checkpoints.close()
    assert int(state.step) == experiment.updates
    mesh = experiment.method.mesh
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {mesh.size if mesh else 1}
    return jax.tree.map(np.asarray, state.params)


def test_a_run_resumes_to_the_bit_and_on_another_number_of_devices(tmp_path, caplog):
    whole = {}
    for name in ("none", "shard_map", "pmap"):
        with caplog.at_level("INFO", "mbjax"):
            train.train_and_evaluate(config_of(parallel=name), tmp_path / name)
        assert ("config.parallel: 2 cpu devices share pairs by 2" in caplog.text) == (name != "none")
        assert "config.meta.pairs_per_chunk: 80" in caplog.text
        whole[name] = final_params(tmp_path / name, config_of(parallel=name))
        caplog.clear()
    for name in ("shard_map", "pmap"):
        for a, b in zip(jax.tree.leaves(whole[name]), jax.tree.leaves(whole["none"]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    for name, then in (("shard_map", "shard_map"), ("shard_map", "none"), ("none", "shard_map")):
        folder = tmp_path / f"{name}, then {then}"
        (tmp_path / name).rename(folder)
        for part in ("result.json", "checkpoints/20"):
            (folder / part).rename(tmp_path / f"{folder.name} {part.replace('/', ' ')}")
        result = train.train_and_evaluate(config_of(parallel=then), folder)
        assert result["resumed_at"] == 10
        resumed = final_params(folder, config_of(parallel=then))
        for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole[name]), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=0 if then == name else 1e-5)
        folder.rename(tmp_path / name)


def test_a_spread_run_compiles_once(caplog):
    experiment = train.build(config_lib.validate(config_of(parallel="shard_map")))
    examples = updates_lib.on_device(experiment.streams, experiment.method.mesh)
    assert examples["support"]["x"] is examples["query"]["x"]
    with jax.log_compiles():
        state = train.last_state(train.make_updates(experiment, 4)(experiment.method.init(0), [10, 15]))
    assert int(state.step) == 15
    assert caplog.text.count("Compiling jit(advance)") == 1


METHODS = {
    "erm": {"train.batch_size": 8},
    "erm, uneven": {"method": "erm", "train.batch_size": 7},
    "drw": {"train.batch_size": 8, "loss.beta": 0.9},
    "l2rw": {"train.batch_size": 8, "clean.batch_size": 6, "clean.share": 0.2},
    "mw_net": {"train.batch_size": 8, "clean.batch_size": 6, "clean.share": 0.2},
    "metabalance": {"meta.steps": 1, "support.batch_size": 6, "query.batch_size": 8},  # within the pair
    "metabalance, warm-up": {"method": "metabalance", "meta.steps": 3, "meta.warmup": 0.5},
    "metabalance, augmented": {"method": "metabalance", "meta.steps": 3, "query.mix": "mixup", "query.mix_alpha": 0.4},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_two_devices_as_on_one(name):
    found = {}
    for wrapper in ("none", "shard_map"):
        config = config_of(**{"method": name, **METHODS[name]}, parallel=wrapper)
        config.model = {"name": "cnn", "channels": (4, 4), "head": "linear"}
        experiment = train.build(config_lib.validate(config))
        assert (experiment.method.mesh is None) == (wrapper == "none")
        ((_, state, metrics),) = train.make_updates(experiment, 4)(experiment.method.init(0), [4])
        found[wrapper] = jax.tree.map(np.asarray, (state.params, state.model_state, metrics))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found["none"]))
    for one, two in zip(jax.tree.leaves(found["none"]), jax.tree.leaves(found["shard_map"]), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-6 * max(1, np.abs(one).max()))


@pytest.mark.parametrize("batch_size", [33, 64, 2048])
def test_evaluation_on_two_devices_equals_that_on_one(batch_size):
    experiment = train.build(config_lib.validate(config_of()))
    state, split = experiment.method.init(0), experiment.dataset.test
    mesh = mesh_of(1)
    one = evaluate.make_predict(experiment.model, split, batch_size=batch_size)(state)
    two = evaluate.make_predict(experiment.model, split, batch_size=batch_size, mesh=mesh)(
        parallel.replicate(state, mesh)
    )
    assert one.shape == (len(split), 10)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


def test_what_is_fed_lies_where_it_is_used():
    x, asked = np.arange(60 * 2).reshape(60, 2), []

    def read(rows):
        asked.append(rows)
        return x[rows]

    rows = np.random.default_rng(0).integers(60, size=(3, 4, 5))
    fed = parallel.feed(read, rows, mesh_of(2))
    np.testing.assert_array_equal(asked, [rows])
    np.testing.assert_array_equal(fed, x[rows])
    assert [shard.data.shape for shard in fed.addressable_shards] == [(3, 2, 5, 2)] * 2
    odd = parallel.feed(read, rows[:, :3], mesh_of(2))
    np.testing.assert_array_equal(odd, x[rows[:, [0, 1, 2, 0]]])
    batch = parallel.feed(lambda rows: rows, np.arange(12).reshape(2, 6), mesh_of(1))
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 3)] * 2
    uneven = parallel.feed(lambda rows: rows, np.arange(10).reshape(2, 5), mesh_of(1))
    assert [shard.data.shape for shard in uneven.addressable_shards] == [(2, 5)] * 2


class OnHost:
    """An array that is read by index."""

    def __init__(self, x):
        self._x, self.shape, self.dtype = x, x.shape, x.dtype

    def __getitem__(self, rows):
        return self._x[rows]


def test_examples_that_stay_on_the_host_are_fed_in_parts():
    experiment = train.build(config_lib.validate(config_of(parallel="shard_map")))
    streams = {name: dataclasses.replace(s, x=OnHost(s.x)) for name, s in experiment.streams.items()}
    on_host = dataclasses.replace(experiment, streams=streams)
    calls = [updates_lib.feed(e, 0, [4, 6], 4) for e in (on_host, experiment)]
    for (count, fed), (_, rows) in zip(*calls, strict=True):
        for name, stream in experiment.streams.items():
            chosen = np.asarray(rows[name])[:count]
            assert chosen.shape[1] == 8  # 7 pairs, and one for the other device to have equally many
            np.testing.assert_array_equal(fed[name]["x"][:count], stream.x[chosen])
            np.testing.assert_array_equal(fed[name]["y"][:count], stream.y[chosen])
            assert [shard.data.shape[1] for shard in fed[name]["x"].addressable_shards] == [4, 4]


def test_an_unknown_wrapper_is_refused():
    with pytest.raises(UserError, match=r"config.parallel='vmap': choose one of auto, shard_map, pmap, none"):
        config_lib.validate(config_of(parallel="vmap"))


def test_a_cpu_has_a_device_for_each_core_unless_told_otherwise():
    script = "import jax; from mbjax.devices import parallel; parallel.use_all_cores(); print(len(jax.devices('cpu')))"
    cores = len(os.sched_getaffinity(0))
    assert run(script, JAX_PLATFORMS="cpu").stdout == f"{cores}\n"
    assert run(script, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="3").stdout == "3\n"
    assert run(script, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=5").stdout == "5\n"
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + script
    assert run(one_core, JAX_PLATFORMS="cpu").stdout == "1\n"
