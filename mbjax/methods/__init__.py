"""The methods that a configuration can name: one file per family."""

import dataclasses
import inspect

from mbjax.devices import parallel
from mbjax.methods import base, diet, erm, m2m, metabalance, reweighting
from mbjax.methods.base import Method, Problem, Recipe, Sections, Shapes, batch_of, make_optimizer, stream_section
from mbjax.registry import Registry

BUILT_IN: dict[str, Recipe] = {
    "drw": erm.DRW,
    "erm": erm.ERM,
    "l2rw": reweighting.L2RW,
    "m2m": m2m.M2M,
    "metabalance": metabalance.METABALANCE,
    "mw_net": reweighting.MW_NET,
}
METHODS = Registry("mbjax.methods", dict(BUILT_IN), lambda part: isinstance(part, Recipe) or callable(part))

__all__ = [
    "BUILT_IN",
    "METHODS",
    "Method",
    "Problem",
    "Recipe",
    "Sections",
    "Shapes",
    "batch_of",
    "build",
    "diet",
    "find",
    "make_optimizer",
    "stream_section",
]


def find(name: str) -> Recipe:
    """The method's entry in `METHODS`, where a function alone is a method of the stream `train`.

    Raises:
      UserError: there is no such method.
    """
    found = METHODS.find(name, "config.method")
    return found if isinstance(found, Recipe) else Recipe(found, batch_of("train"), "train", {"train": base.TRAIN})


def build(name: str, problem: Problem, sections: Sections) -> Method:
    """Builds a method. Methods of pairs spread these themselves; of the others the batches are spread over devices.

    Args:
      name: a key of `METHODS`.
      problem: model, loss and optimiser.
      sections: the sections of the configuration by name, as plain dicts. A builder's keyword-only parameters name
        those that it takes.

    Raises:
      UserError: no such method.
    """
    recipe = find(name)
    shapes = recipe.streams(sections)
    wanted = [p.name for p in inspect.signature(recipe.build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    method = recipe.build(problem, **{section: dict(sections[section]) for section in wanted})
    if any(len(shape) > 1 for shape in shapes.values()):
        return method
    batch = min(shape[-1] for shape in shapes.values())
    mesh = parallel.choose_mesh(problem.parallel, batch=batch, init=problem.init)
    return dataclasses.replace(method, mesh=mesh, init=lambda seed: parallel.replicate(method.init(seed), mesh))
