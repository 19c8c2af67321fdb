"""Many runs as one program: each has the result that it would have alone."""

import dataclasses

import jax
import numpy as np
import pytest

from mbjax import config as config_lib
from mbjax import train
from mbjax.train import population

LEARNING_RATES = (0.01, 0.02, 0.05, 0.1)


def make_config(method: str, **overrides):
    config = config_lib.base()
    config.method = method
    config.data.update(minority_count=5, test_count=20)
    config.model.update(hidden=(16, 16), dropout=(0.5, 0.0))
    config.query.sampler = "class_balanced"
    config.meta.update(steps=4, pairs_per_chunk=2)
    config.update(updates=25, updates_per_call=10)
    config.update_from_flattened_dict(overrides)
    return config


def build(config, seed):
    config = config.copy_and_resolve_references()
    config.seed = seed
    return train.build(config_lib.validate(config))


def train_alone(config, seed, **numbers):
    """A run through the same parts that `train_and_evaluate` has."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(numbers)
    experiment = build(config, seed)
    updates = train.make_updates(experiment, config.updates_per_call)
    return train.last_state(updates(experiment.method.init(seed), [experiment.updates]))


def assert_close(a, b):
    assert int(a.step) == int(b.step)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_forty_members_are_their_lone_runs():
    # Without dropout: a unit whose inputs are all dropped sits on ReLU's kink, where rounding decides.
    config, seeds = make_config("erm", **{"model.dropout": ()}), range(10)
    settings = [{"optimizer.lr": lr} for lr in LEARNING_RATES]
    experiments = [build(config, seed) for seed in seeds]
    together, in_turn = (
        population.train_population(experiments, seeds, settings, updates_per_call=10, mode=mode)
        for mode in ("together", "in_turn")
    )
    for seed in seeds:
        for v, setting in enumerate(settings):
            assert int(together.states[seed][v].step) == 25
            assert_close(together.states[seed][v], in_turn.states[seed][v])
            if v == seed % 4:  # each takes a compilation
                assert_close(together.states[seed][v], train_alone(config, seed, **setting))
    weights = {np.asarray(jax.tree.leaves(s.params)[1]).tobytes() for row in together.states for s in row}
    assert len(weights) == 40  # seeds and learning rates did make different runs


@pytest.mark.parametrize(
    ("method", "key", "values"),
    [
        ("metabalance", "meta.inner_lr", (0.0, 0.5)),
        ("erm", "loss.beta", (0.9, 0.999)),
        ("erm", "optimizer.weight_decay", (0.0, 0.1)),
    ],
)
def test_numbers_of_the_configuration_can_differ(method, key, values):
    config = make_config(method, **{"loss.class_weight": "effective"} if key == "loss.beta" else {})
    trained = population.train_population(
        [build(config, seed) for seed in (3, 5)], (3, 5), [{key: value} for value in values], mode="together"
    )
    for s, seed in enumerate((3, 5)):
        assert_close(trained.states[s][s], train_alone(config, seed, **{key: values[s]}))  # each takes a compilation
    first, second = (jax.tree.leaves(state.params)[1] for state in trained.states[0])
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 1e-4


def test_seeds_with_different_numbers_of_updates():
    """As of resamplers that clean: they leave each seed another number of examples."""
    updates = {0: 20, 1: 25, 2: 13}
    # The margin grows over a share of them, too.
    changes = {"loss.name": "cosface", "loss.margin_warmup": 0.8, "model.head": "cosine", "model.dropout": ()}
    config = make_config("erm", **changes)
    experiments = [dataclasses.replace(build(config, seed), updates=count) for seed, count in updates.items()]
    trained = population.train_population(experiments, [*updates], updates_per_call=10, mode="together")
    for s, (seed, count) in enumerate(updates.items()):
        assert int(trained.states[s][0].step) == count
        assert_close(trained.states[s][0], train_alone(config, seed, updates=count))


def test_auto_maps_small_updates_and_takes_large_ones_and_convolutions_in_turn():
    config = make_config("metabalance", updates=2)
    config.meta.steps = 12
    assert population.train_population([build(config, 0)], [0], updates_per_call=2).mode == "in_turn"
    config = make_config("erm", updates=2)
    assert population.train_population([build(config, 0)], [0], updates_per_call=2).mode == "together"
    config.model.update(name="cnn", hidden=(), dropout=())
    assert population.train_population([build(config, 0)], [0], updates_per_call=2).mode == "in_turn"


def test_what_cannot_be_mapped_is_refused():
    config = make_config("erm", updates=2)
    with pytest.raises(ValueError, match="hidden"):
        population.train_population([build(config, 0)], [0], [{"model.hidden": 3}])


def test_finite():
    state = build(make_config("erm"), 0).method.init(0)
    assert population.is_finite(state)
    assert not population.is_finite(state.replace(params=jax.tree.map(lambda x: x / 0, state.params)))
