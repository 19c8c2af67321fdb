"""The methods that a configuration can name: one file a family."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mbjax.devices import parallel
from mbjax.methods import erm, m2m, metabalance, reweighting
from mbjax.methods.base import Method, Problem, make_optimizer
from mbjax.types import UserError

METHODS: dict[str, Callable[..., Method]] = {
    "drw": erm.build_drw,
    "erm": erm.build,
    "l2rw": reweighting.build_l2rw,
    "m2m": m2m.build_m2m,
    "metabalance": metabalance.build,
    "mw_net": reweighting.build_mw_net,
}

__all__ = ["METHODS", "Method", "Problem", "build", "make_optimizer"]


def build(name: str, problem: Problem, sections: Mapping[str, Any]) -> Method:
    """Builds a method. Methods of pairs spread these themselves; of the others the batches are spread over devices.

    Args:
      name: a key of `METHODS`.
      problem: model, loss and optimiser.
      sections: the sections of the configuration by name, as plain dicts. A builder's keyword-only parameters name
        those that it takes.

    Raises:
      UserError: no such method.
    """
    if name not in METHODS:
        raise UserError(f"config.method={name!r}: choose one of {', '.join(sorted(METHODS))}")
    builder = METHODS[name]
    wanted = [p.name for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY]
    method = builder(problem, **{section: dict(sections[section]) for section in wanted})
    if any(len(shape) > 1 for shape in method.streams.values()):
        return method
    batch = min(shape[-1] for shape in method.streams.values())
    mesh = parallel.choose_mesh(problem.parallel, batch=batch, init=problem.init)
    return dataclasses.replace(method, mesh=mesh, init=lambda seed: parallel.replicate(method.init(seed), mesh))
