"""The configuration: the options that every part of mbjax declares, in sections, and the checks of their values.

A file in `configs/` takes `base()` and changes what its task needs; `validate` is what training does with the result.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, get_args

import ml_collections
from ml_collections import ConfigDict, config_dict

from mbjax import data, losses, models, sampling
from mbjax.devices.parallel import Parallel
from mbjax.evaluation import decisions, metrics
from mbjax.methods import BUILT_IN, METHODS, diet, find
from mbjax.methods import base as method_base
from mbjax.options import (
    COUNT,
    POSITIVE,
    SEED,
    Kind,
    Option,
    Section,
    choice,
    flatten,
    nearest,
    several,
    shown,
    unset_or,
)  # fmt: skip
from mbjax.types import Config, UserError, first_line

# Any name will do for a data set of one's own; `data.load` refuses one that it does not know.
_TASK = dataclasses.replace(data.DATASETS.kind, valid=lambda x: isinstance(x, str))


RUN = Section(
    "of the whole run",
    (
        Option("task", "digits", _TASK, "which data set"),
        Option("method", "metabalance", METHODS.kind, "which method"),
        Option("seed", 0, SEED, "of the split, the samplers, the initial weights and dropout"),
        Option("epochs", 100, POSITIVE,
               "passes over the train stream (erm) or the query stream (metabalance), as the paper's code counts them"),
        Option("updates", None, unset_or(COUNT, "None for config.epochs to decide"),
               "the number of updates; epochs decide if unset"),
        Option("updates_per_call", 100, COUNT, "updates that the device does without returning to the host"),
        Option("keep_checkpoints", 3, COUNT, "checkpoints that are kept, the newest"),
        Option("parallel", "auto", choice(get_args(Parallel)),
               "how work is spread over all devices; it changes no result but by rounding"),
    ),
)  # fmt: skip


def _merged(*declared: Mapping[str, Section]) -> dict[str, Section]:
    """Sections by name; one that several declare has the help of the first and the options of all."""
    out: dict[str, Section] = {}
    for name, section in (pair for sections in declared for pair in sections.items()):
        first = out.get(name, section)
        own = {option.name: option for option in (*first.options, *section.options)}
        out[name] = Section(first.help, tuple(own.values()))
    return out


SECTIONS = _merged({
    "data": Section("options of the task's loader", data.COMMON_OPTIONS),
    "model": Section("the network", (models.NAME_OPTION,)),
    "loss": Section("the loss", losses.OPTIONS),
    "optimizer": Section("SGD", method_base.OPTIMIZER_OPTIONS),
    "diet": diet.SECTION,
    "decision": Section("how the trained model decides", decisions.OPTIONS),
    "eval": Section("evaluation", (
        Option("every", 0.1, POSITIVE, "evaluations and checkpoints: a share of the updates, or a number if ≥ 1"),
        Option("patience", None, unset_or(COUNT, "None to train to the end"),
               "evaluations without a better validation score after which training stops and keeps its best state"),
        Option("batch_size", 2048, COUNT, "examples in a batch"),
        Option("protocol", "clean", choice(("clean", "authors")),
               "authors: test images are cropped and flipped at random, as their code does"),
        Option("scores", (), several(metrics.SCORES.kind, "names are needed, such as ('my_scores:brier',)"),
               "further scores of classes: functions of probabilities and labels"),
    )),
}, *(recipe.sections for recipe in BUILT_IN.values()))  # fmt: skip
"""The sections that every configuration has; `sections_of` adds what its own parts declare."""

STREAMS = tuple(name for name, section in SECTIONS.items() if "sampler" in (o.name for o in section.options))
_LOOSE = ("data", "model")  # what is missing or unset there is left to the loader and the model
RENAMED = {"m2m.lambda": "m2m.logit_weight"}  # keys by their name in the folders of older runs


def base() -> Config:
    """The defaults. A file in `configs/` takes them and changes what its task needs."""
    config: Config = ConfigDict(_defaults(RUN.options))
    for name, section in SECTIONS.items():
        config[name] = _defaults(section.options)
    config.model.update(_defaults(models.MODELS.options(config.model.name, "config.model.name")))
    return config


def _defaults(options: Collection[Option]) -> dict[str, Any]:
    return {o.name: config_dict.placeholder(o.kind.holds) if o.default is None else o.default for o in options}


def defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The default of every key that the parts of a configuration have, by its full name, as JSON has it."""
    flat = {option.name: option.default for option in RUN.options}
    for name, section in sections_of(values).items():
        flat |= flatten({name: {option.name: option.default for option in section.options}})
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


def sections_of(values: Mapping[str, Any]) -> dict[str, Section]:
    """Every section of a configuration, with the options of its data set, model, method, losses and samplers.

    Raises:
      UserError: a part from elsewhere that cannot be imported.
    """
    own = find(values["method"]).sections if values.get("method") in METHODS else {}
    parts = [("data", data.DATASETS, "task"), ("model", models.MODELS, "model.name")]
    parts += [("loss", losses.LOSSES, key) for key in ("loss.name", "support.loss")]
    parts += [(name, sampling.SAMPLERS, f"{name}.sampler") for name in {**SECTIONS, **own}]
    given = flatten(dict(values))
    of_parts = [{name: Section("", registry.options(given.get(key), f"config.{key}"))} for name, registry, key in parts]
    return _merged(SECTIONS, own, *of_parts)


def _own(values: Mapping[str, Any]) -> dict[str, list[Option]]:
    """By section, the options that no built-in part has; without those of `data` and `model`, which may be missing."""
    own = {}
    for name, section in sections_of(values).items():
        built_in = {option.name for option in SECTIONS[name].options} if name in SECTIONS else set()
        if name not in _LOOSE and (more := [option for option in section.options if option.name not in built_in]):
            own[name] = more
    return own


def change(config: Config, changes: Mapping[str, Any]) -> None:
    """Sets keys of a configuration. A part that is named brings the keys that are its own, with their defaults.

    Of another task or model than before, the section `data` or `model` has the keys of that one alone. A model takes
    over the values of options that both share (head, dtype, …), but not what makes it: width and stages of one ResNet
    are not another's.

    Args:
      config: changed in place.
      changes: such as `{"method": "my_methods:noisy", "noisy.scale": 0.1}`.
    """

    def order(key: str) -> tuple[bool, bool]:  # a method declares sections, other parts keys of them
        return key != "method", not names_part(key)

    for key in sorted(changes, key=order):
        for section, name, registry in (("data", "task", data.DATASETS), ("model", "model.name", models.MODELS)):
            if key == name and changes[key] != (before := flatten(config.to_dict())[key]):
                declared = (*SECTIONS[section].options, *registry.options(changes[key], f"config.{key}"))
                shared = declared if section == "data" else registry.options(before, f"config.{key}")
                kept = {option.name for option in declared if option in shared}
                new = ConfigDict(_defaults(declared))
                new.update({k: v for k, v in config[section].items() if k in kept and v is not None})
                with config.unlocked():
                    config[section] = new
        config.update_from_flattened_dict({key: changes[key]})
        if names_part(key):
            for section, options in _own(config.to_dict()).items():
                with config.unlocked():
                    if section not in config:
                        config[section] = ConfigDict()
                    for name, value in _defaults(options).items():
                        if name not in config[section]:
                            config[section][name] = value


def names_part(key: str) -> bool:
    """Whether a key of the configuration names a part: a method, a data set, a model, a loss or a sampler."""
    return key in ("method", "task", "model.name", "loss.name", "support.loss") or key.endswith(".sampler")


FACES_ROWS: dict[str, dict[str, Any]] = {  # of configs/celeba.py and configs/faces.py
    "naive": {"method": "erm", "train.sampler": "natural"},
    "over": {"method": "erm", "train.sampler": "over", "train.balance": "group"},
    # As many query images an update, drawn and weighed as they are, and as many updates, as MetaBalance.
    "large_batch": {
        "method": "erm", "train.sampler": "class_balanced", "train.balance": "group", "train.sum_groups": True,
    },
    "metabalance": {},
    "first_order": {"meta.grad_mode": "first_order"},
    "no_adaptation": {"meta.inner_lr": 0.0},
    "no_adaptation_query": {"meta.inner_lr": 0.0, "meta.model_state_from": "query"},
}  # fmt: skip


def identification(row: str = "metabalance") -> Config:
    """What `configs/celeba.py` and `configs/faces.py` share: section 5.4 and appendix A.4 of the paper.

    Args:
      row: of `FACES_ROWS`, or a method.

    The query batch is 64 images of either group, and its loss the sum of the groups' mean losses.
    """
    config: Config = base()
    config.model = {
        "name": "resnet18", "width": 64, "stages": (2, 2, 2, 2), "dtype": "float32", "conv": "auto", "head": "cosine",
        "embedding": 512, "stem_stride": 1,
    }  # fmt: skip
    config.loss.update(name="cosface", scale=64.0, margin=0.35, gamma=2.0)
    config.train.batch_size = config.support.batch_size = config.query.batch_size = 128
    config.query.update(sampler="class_balanced", balance="group", sum_groups=True)
    for name in STREAMS:
        config[name].augment = "crop_flip"
    config.meta.update(steps=4, inner_lr=0.01, beta=0.0)
    config.optimizer.update(
        lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4, decay_batch_norm=False, schedule="step",
        drops=(50 / 120, 100 / 120),
    )  # fmt: skip
    config.epochs = 120
    config.eval.update(every=0.1, batch_size=256)
    config.updates_per_call = 4
    config.update_from_flattened_dict(FACES_ROWS.get(row, {"method": row}))
    if row in ("naive", "over"):  # appendix A.4 has other drops for plain training
        config.optimizer.drops = (35 / 120, 65 / 120, 95 / 120)
    elif row == "large_batch":
        config.train.batch_size = config.meta.steps * config.query.batch_size
    return config


def validate(config: Config) -> Config:
    """Checks every value by its option's declaration and returns the configuration frozen.

    What a method, a loss or a sampler from elsewhere declares and the configuration lacks has its default.

    Raises:
      UserError: a value of another type or out of its range, or a key that nothing declares; one line that names the
        key, the value and what is allowed.
    """
    if not hasattr(config, "to_dict"):
        raise UserError(
            f"the configuration is {shown(config)}, a {type(config).__name__}: a ConfigDict is needed, as "
            "mbjax.config.base() makes it"
        )
    values = config.to_dict()
    if own := _own(values):
        for name, options in own.items():
            if isinstance(section := values.get(name, {}), dict):
                values[name] = {**{option.name: option.default for option in options}, **section}
        config = ConfigDict(values)
    sections = sections_of(values)
    _check_keys(values, sections)
    _check("", RUN, values)
    for name, section in sections.items():
        _check(f"{name}.", section, values[name])
    try:
        return ml_collections.FrozenConfigDict(config)
    except Exception as error:  # of lists within dicts, say, of a key that nothing declares
        raise UserError(f"the configuration holds a value that no ConfigDict can keep ({first_line(error)})") from None


def _check(prefix: str, section: Section, values: Mapping[str, Any]) -> None:
    loose = prefix[:-1] in _LOOSE
    for option in section.options:
        value = values.get(option.name)
        if loose and (value is None or (isinstance(value, str) and not value)):
            continue
        if not _is_valid(option.kind, value):
            large = option.kind.below and isinstance(value, int) and value >= option.kind.below
            limit = f"; it has to be below {option.kind.below}" if large else ""
            raise UserError(f"config.{prefix}{option.name}={shown(value)}: {option.kind.describe()}{limit}")


def _is_valid(kind: Kind, value: Any) -> bool:
    try:
        return bool(kind.valid(value))
    except Exception:  # a value of a type that nobody thought of: one that cannot be compared, say
        return False


def _check_keys(values: Mapping[str, Any], sections: Mapping[str, Section]) -> None:
    """Raises a UserError for a section or a key that is missing or that nothing declares.

    Of `data` and `model`, what they lack is left to the loader and the model, which say what the task or model takes.
    """
    known = {option.name for option in RUN.options} | {
        f"{name}.{option.name}" for name, section in sections.items() for option in section.options
    }
    given = {name for name in values if name not in sections}
    for name in sections:
        if not isinstance(values.get(name), dict):
            raise UserError(f"config.{name}={shown(values.get(name))}: a section is needed, with keys of its own")
        given |= {f"{name}.{key}" for key in values[name]}
    loose = tuple(f"{name}." for name in _LOOSE)
    for key in sorted(key for key in given - known if not key.startswith(loose)):
        meant = " or ".join(f"config.{name}" for name in nearest(key, sorted(known)))
        raise UserError(f"config.{key}: there is no such key; did you mean {meant}?")
    for key in sorted(key for key in known - given if not key.startswith(loose)):
        raise UserError(f"config.{key} is missing: start from mbjax.config.base(), which has every key")


def parse_name(name: str, *, file: str, scenarios: Collection[str] = (), rows: Collection[str] = ()) -> tuple[str, str]:
    """Reads what follows the colon of `--config=FILE:NAME`: `SCENARIO`, `ROW` or `SCENARIO,ROW`.

    Args:
      name: what the user wrote; the first scenario and no row if empty.
      file: the configuration file's name, for messages.
      scenarios: the valid ones, the default first; none for a file without scenarios.
      rows: the valid ones. A method's name is a row, too: that method, with the file's settings.

    Returns:
      The scenario and the row; `""` for what there is none of.

    Raises:
      UserError: a name that is neither.
    """
    scenario, _, row = name.partition(",")
    if not scenarios or ("," not in name and scenario not in scenarios):
        scenario, row = "", name
    scenario = scenario or next(iter(scenarios), "")
    names = (*rows, *(method for method in METHODS if method not in rows))
    for value, choices in ((scenario, scenarios), (row, names)):
        if value and value not in choices:
            valid = choices if scenarios and "," in name else (*scenarios, *names)
            raise UserError(f"{file}:{name}: {value!r} is none of {', '.join(valid)}")
    return scenario, row


def unknown_key(config: Config, keys: Collection[str]) -> str:
    """The message about the first of `keys` that a configuration does not have; empty if it has them all."""
    values = config.to_dict()
    leaves = set(flatten(values)) | {option.name for option in RUN.options}
    for key in keys:
        if key not in leaves and key not in values:
            likely = [RENAMED[key]] if key in RENAMED else nearest(key, sorted(leaves))
            meant = " or ".join(f"--config.{name}" for name in likely)
            return f"--config.{key}: there is no such key; did you mean {meant}? --help-config lists all keys"
    return ""
