"""Options: what each owner declares, what the configuration makes of it, and what the user reads about a mistake."""

import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from mbjax import cli, config_files, data, models, options
from mbjax import config as config_lib
from mbjax.types import UserError

ROOT = Path(__file__).parents[1]

STREAM = {
    "augment": "none", "balance": "class", "batch_size": 24, "mix": "none", "mix_alpha": 1.0, "mix_probability": 1.0,
    "neighbors": None,
    "sampler": "natural", "sampling_strategy": "auto", "sum_groups": False,
}  # fmt: skip
# Every key and its default: a change of one of them is a change for every configuration of a user's own.
KEYS: dict[str, dict[str, Any]] = {
    "": {
        "epochs": 100, "keep_checkpoints": 3, "method": "metabalance", "parallel": "auto", "seed": 0,
        "task": "digits", "updates": None, "updates_per_call": 100,
    },
    "train": STREAM,
    "support": {**STREAM, "loss": ""},
    "query": {**STREAM, "sampler": "under", "batch_size": 16},
    "clean": {**STREAM, "share": 0.1},
    "pretrain": STREAM,
    "data": {"dir": "", "path": "", "target": ""},
    "eval": {"batch_size": 2048, "every": 0.1, "patience": None, "protocol": "clean", "scores": ()},
    "loss": {
        "beta": 0.999, "class_weight": "none", "deferred": 0.8, "gamma": 2.0, "margin": 0.35, "margin_warmup": 0.0,
        "max_margin": 0.5,
        "name": "cross_entropy", "scale": 30.0, "smoothing": 0.0, "tau": 1.0,
    },
    "m2m": {
        "beta": 0.999, "deferred": 0.8, "gamma": 0.9, "lambda": 0.5, "pretrain": 0.5, "step_size": 0.1, "steps": 10,
    },
    "meta": {
        "adapt": (), "beta": 0.0, "grad_mode": "mixed", "inner_lr": 0.01, "inner_steps": 1, "model_state_from": "both",
        "pairs_per_chunk": None, "steps": 80, "warmup": 0.0,
    },
    "model": {
        "activation": "relu", "dropout": (), "head": "linear", "hidden": (64,), "name": "mlp", "parametric": False,
        "scaling_layer": False,
    },
    "optimizer": {
        "decay_batch_norm": True, "drops": (), "ema": 0.0, "lr": 0.02, "momentum": 0.9, "name": "sgd", "nesterov": True,
        "sam": 0.0, "schedule": "constant", "weight_decay": 0.0005,
    },
    "weight_net": {
        "hidden": 100, "lr": 0.001, "momentum": 0.9, "normalize": False, "optimizer": "adam", "weight_decay": 0.0001,
    },
    "diet": {"batch_size": 256, "updates": 0},
    "decision": {"metric": "", "beta": 1.0, "keep": None, "costs": ""},
}  # fmt: skip


def test_keys_and_defaults_are_these():
    before = {f"{section}.{key}".lstrip("."): value for section, own in KEYS.items() for key, value in own.items()}
    before = {config_lib.RENAMED.get(key, key): value for key, value in before.items()}
    now = config_lib.flatten(config_lib.base().to_dict())
    assert now == before
    assert {key: type(value) for key, value in now.items()} == {key: type(value) for key, value in before.items()}


@pytest.mark.parametrize("task", sorted(data.DATASETS))
def test_a_data_set_declares_exactly_what_its_loader_takes(task):
    load = data.DATASETS[task]
    parameters = dict(inspect.signature(load).parameters)
    protocol = vars(load.__globals__["PROTOCOL"]) if parameters.pop("protocol", None) else {}
    assert {**{name: p.default for name, p in parameters.items() if name != "seed"}, **protocol} == {
        option.name: option.default for option in data.DATASETS.options(task, "task")
    }


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_a_model_declares_its_attributes(name):
    fields = {f.name: f.default for f in dataclasses.fields(models.MODELS[name])}
    own = {name: default for name, default in fields.items() if name not in ("outputs", "parent", "name", "axis_name")}
    assert {option.name: option.default for option in models.MODELS.options(name, "name")} == own


def test_every_option_allows_its_default_and_says_what_it_does():
    sections = [config_lib.RUN, *config_lib.SECTIONS.values()]
    declared = [option for section in sections for option in section.options]
    registries = (data.DATASETS, models.MODELS)
    loose = [option for registry in registries for name in registry for option in registry.options(name, "name")]
    for option in [*declared, *loose]:
        assert option.kind.valid(option.default) or (option in loose and option.default is None), option
        assert option.help, option
        assert "\n" not in option.help, option


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/[a-z]*.py")), ids=lambda file: file.stem)
def test_every_configuration_is_valid_and_takes_a_method_for_a_row(file):
    config_lib.validate(config_files.load(str(file)))
    config = config_files.load(f"{file}:erm")
    assert config_lib.validate(config).method == "erm"


WRONG = [
    ("model.hidden", "over", "whole numbers of at least 1 are needed"),
    ("model.hidden", (math.nan,), "whole numbers of at least 1 are needed"),
    ("model.hidden", (2.5,), "whole numbers of at least 1 are needed"),
    ("model.hidden", (0,), "whole numbers of at least 1 are needed"),
    ("model.dropout", (1.0,), "rates from 0 to below 1 are needed"),
    ("model.head", 3, "choose one of linear, cosine"),
    ("optimizer.drops", "auto", "shares of the updates, above 0 and below 1, are needed"),
    ("optimizer.drops", (0.5, 1.0), "shares of the updates, above 0 and below 1, are needed"),
    ("optimizer.lr", math.nan, "a number above 0 is needed"),
    ("optimizer.lr", math.inf, "a number above 0 is needed"),
    ("optimizer.lr", "fast", "a number above 0 is needed"),
    ("optimizer.nesterov", 1, "True or False is needed"),
    ("optimizer.momentum", 1.0, "a number from 0 to below 1 is needed"),
    ("seed", 2**63, "a whole number from 0 to 4294967295 is needed"),
    ("seed", -1, "a whole number from 0 to 4294967295 is needed"),
    ("seed", True, "a whole number from 0 to 4294967295 is needed"),
    ("meta.steps", 0, "a whole number of at least 1 is needed"),
    ("meta.steps", 2.5, "a whole number of at least 1 is needed"),
    ("meta.pairs_per_chunk", 0, "a whole number of at least 1 is needed, or None"),
    ("updates", 0, "a whole number of at least 1 is needed, or None for config.epochs to decide"),
    ("loss.name", ["focal"], "choose one of cross_entropy, focal, "),
    ("support.loss", "hinge", "choose one of cross_entropy, focal, logit_adjustment, balanced_softmax, ldam, "),
    ("train.sampling_strategy", "some", "choose one of auto, majority, minority, "),
    ("train.sampling_strategy", True, "choose one of auto, majority, minority, "),
    ("clean.share", 0, "a number above 0 and below 1 is needed"),
    ("loss.deferred", 1.1, "a number from 0 to 1 is needed"),
    ("data.validation_share", "half", "a number is needed"),
    ("data.minority_count", 2.5, "a whole number is needed"),
    ("data.dir", 3, "a text is needed"),
    ("meta", 3, "a section is needed"),
]  # fmt: skip


def changed(key: str, value: Any) -> Any:
    """The defaults with one value, of any type."""
    values = config_lib.base().to_dict()
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    return Loose(values)


class Loose(ConfigDict):
    """Stands for a configuration that was put together by hand: a ConfigDict keeps its values' types itself."""

    def __init__(self, values):
        super().__init__()
        object.__setattr__(self, "_values", values)

    def to_dict(self, **_):
        return self._values


@pytest.mark.parametrize(("key", "value", "wanted"), WRONG)
def test_a_wrong_value_is_one_line_that_names_key_value_and_what_is_allowed(key, value, wanted):
    with pytest.raises(UserError) as error:
        config_lib.validate(changed(key, value))
    assert str(error.value).startswith(f"config.{key}={value!r}: {wanted}")
    assert "\n" not in str(error.value)


def test_what_is_right_is_taken():
    config = config_lib.base()
    config.data.validation_share = 0.2
    config.optimizer.drops = (0.25, 0.5)
    config.model.hidden = ()
    config.seed = 2**32 - 1
    config.train.sampling_strategy = "{'1': 5}"
    config.query.neighbors = 3
    assert config_lib.validate(config).optimizer.drops == (0.25, 0.5)


def test_a_long_value_is_cut_and_stays_on_one_line():
    with pytest.raises(UserError) as error:
        config_lib.validate(changed("optimizer.drops", "line\n" * 1000))
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "likely"),
    [
        ("optimizer.learning_rate", "config.optimizer."),
        ("optimiser.lr", "config.optimizer.lr?"),
        ("meta.inner_lrs", "config.meta.inner_lr?"),
        ("lr", "config.optimizer.lr or config.weight_net.lr?"),
    ],
)
def test_a_key_that_nothing_declares_names_the_nearest(key, likely):
    section, _, name = key.rpartition(".")
    values = config_lib.base().to_dict()
    (values.setdefault(section, {}) if section else values)[name] = 1
    with pytest.raises(UserError) as error:
        config_lib.validate(Loose(values))
    assert likely in str(error.value)


def test_the_nearest_key():
    keys = ["optimizer.lr", "weight_net.lr", "optimizer.momentum", "m2m.steps"]
    assert options.nearest("optimiser.lr", keys) == ["optimizer.lr"]
    assert options.nearest("lr", keys) == ["optimizer.lr", "weight_net.lr"]
    assert options.nearest("steps", keys) == ["m2m.steps"]
    assert len(options.nearest("?", keys)) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ("a", "")), ("b", ("b", "")), ("b,one", ("b", "one")), ("one", ("a", "one")), ("b,erm", ("b", "erm")),
        ("erm", ("a", "erm")), (",one", ("a", "one")), ("b,", ("b", "")),
    ],
)  # fmt: skip
def test_a_name_is_a_scenario_a_row_or_both(name, expected):
    assert config_lib.parse_name(name, file="f.py", scenarios=("a", "b"), rows={"one": {}}) == expected


@pytest.mark.parametrize(
    ("name", "scenarios", "message"),
    [
        ("c", ("a", "b"), "f.py:c: 'c' is none of a, b, one, "),
        ("c,one", ("a", "b"), "f.py:c,one: 'c' is none of a, b"),
        ("a,two", ("a", "b"), "f.py:a,two: 'two' is none of one, "),
        ("a,one", (), "f.py:a,one: 'a,one' is none of one, "),
    ],
)
def test_a_name_that_is_neither_lists_the_valid_ones(name, scenarios, message):
    with pytest.raises(UserError) as error:
        config_lib.parse_name(name, file="f.py", scenarios=scenarios, rows=("one",))
    assert str(error.value).startswith(message)


def test_help_has_a_line_for_every_key_with_value_default_and_help():
    config = config_files.load(str(ROOT / "configs/cifar10.py") + ":small,naive")
    lines = cli.help_lines(config)
    keys = config_lib.flatten(config.to_dict())
    shown = {line.split("  ")[0]: line for line in lines if line}
    assert set(keys) <= set(shown)
    columns = [part.strip() for part in shown["optimizer.lr"].split("  ") if part]
    assert columns == ["optimizer.lr", "0.05", "0.02", "the learning rate, at first"]
    assert [part.strip() for part in shown["method"].split("  ") if part][1:3] == ["'erm'", "'metabalance'"]
    assert shown["seed"].index("of the split") == shown["model.width"].index("channels of")  # columns are aligned
