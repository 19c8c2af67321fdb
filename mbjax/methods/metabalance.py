"""MetaBalance (section 3 of the paper): adapt to a support batch, minimise the loss on a query batch."""

from typing import Any

from mbjax import parallel
from mbjax.meta import make_meta_step
from mbjax.methods.base import Method, Problem


def build(problem: Problem, *, support: dict[str, Any], query: dict[str, Any], meta: dict[str, Any]) -> Method:
    """MetaBalance with the settings of `config.support`, `config.query` and `config.meta`."""
    pairs = meta.pop("steps")
    devices = parallel.choose_devices(problem.parallel, pairs=pairs, init=problem.init)
    meta_step = make_meta_step(problem.loss_fn, problem.tx, axis_name=parallel.AXIS if devices else None, **meta)
    if devices:
        meta_step = parallel.spread(meta_step, devices, wrapper="pmap" if problem.parallel == "pmap" else "shard_map")
    return Method(
        init=lambda seed: parallel.replicate(problem.init(seed), devices),
        step=lambda state, batches: meta_step(state, batches["support"], batches["query"]),
        streams={"support": (pairs, support["batch_size"]), "query": (pairs, query["batch_size"])},
        epoch_stream="query",
        devices=devices,
    )
