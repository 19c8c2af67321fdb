"""MetaBalance (section 3 of the paper): adapt to a support batch, minimise the loss on a query batch."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mbjax import losses
from mbjax.devices import parallel
from mbjax.meta import make_meta_step
from mbjax.methods.base import Method, Problem, Recipe, Sections, Shapes, stream_section
from mbjax.options import COUNT, NOT_NEGATIVE, SHARE_BELOW_1, TEXTS, Option, Section, choice, count_to, listed, unset_or
from mbjax.state import TrainState
from mbjax.types import Batch, LossFn, Metrics, UserError

OPTIONS = (  # of config.meta
    Option("steps", 80, COUNT, "pairs of a support and a query batch in an update"),
    Option("inner_lr", 0.01, NOT_NEGATIVE, "γ, the learning rate of the adaptation to a support batch"),
    Option("inner_steps", 1, count_to(100), "SGD steps of the adaptation"),
    Option("adapt", (), TEXTS,
           "patterns of the weights that the adaptation changes, such as ('Dense_*', 'Conv_4*'); all of them if empty"),
    Option("beta", 0.0, NOT_NEGATIVE, "β, the weight of the support loss beside the query loss"),
    Option("grad_mode", "mixed", choice(("mixed", "reverse", "first_order")), "how the adaptation is differentiated"),
    Option("pairs_per_chunk", None, unset_or(COUNT, "None to leave it to mbjax"),
           "pairs that are vmapped together; unset: all, but one at a time where the model has convolutions"),
    Option("model_state_from", "both", choice(("both", "support", "query")), "the passes that feed running statistics"),
    Option("warmup", 0.0, SHARE_BELOW_1, "the share of the updates, at first, that train plainly on support batches"),
)  # fmt: skip
SUPPORT_OPTIONS = (  # of config.support
    Option("loss", "", unset_or(losses.LOSSES.kind, "none", unset=""),
           "the name of the support loop's loss; that of config.loss if empty"),
)  # fmt: skip


def build(problem: Problem, *, support: dict[str, Any], query: dict[str, Any], meta: dict[str, Any]) -> Method:
    """MetaBalance with the settings of `config.support`, `config.query` and `config.meta`.

    In the first `config.meta.warmup` of the updates it trains plainly, on the support batches alone.
    """
    pairs, warmup = meta.pop("steps"), meta.pop("warmup")
    meta["adapt"] = adapts(meta["adapt"], problem.init)
    batch = min(support["batch_size"], query["batch_size"])
    mesh = parallel.choose_mesh(problem.parallel, pairs=pairs, batch=batch, init=problem.init)
    axis_name = parallel.AXIS if mesh else None
    if meta["pairs_per_chunk"] is None:
        meta["pairs_per_chunk"] = choose_chunk(problem.init, pairs)

    def make(loss_fn: LossFn, **options: Any) -> Callable[..., tuple[TrainState, Metrics]]:
        meta_step = make_meta_step(loss_fn, problem.tx, axis_name=axis_name, **options)
        wrapper = "pmap" if problem.parallel == "pmap" else "shard_map"
        return parallel.spread(meta_step, mesh, pairs=pairs, wrapper=wrapper) if mesh else meta_step

    meta_step = make(problem.loss_fn, support_loss_fn=problem.support_loss_fn, **meta)
    # At γ = 0 an update minimises the query loss at θ.
    plain_step = make(
        problem.support_loss_fn or problem.loss_fn,
        inner_lr=0.0, model_state_from="query", pairs_per_chunk=meta["pairs_per_chunk"],
    )  # fmt: skip

    def step(state: TrainState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        both = batches["support"], batches["query"]
        if not warmup:
            return meta_step(state, *both)
        return jax.lax.cond(
            state.step < warmup * problem.updates,
            lambda state, support, _: plain_step(state, support, support), meta_step, state, *both,
        )  # fmt: skip

    return Method(
        init=lambda seed: parallel.replicate(problem.init(seed), mesh),
        step=step,
        mesh=mesh,
        choices={f"meta.{name}": meta[name] for name in ("grad_mode", "pairs_per_chunk")},
    )


def adapts(patterns: Sequence[str], init: Callable[[int], TrainState]) -> Callable[[str], bool] | None:
    """Whether the adaptation changes a weight, by its path: one of the patterns fits it. None if there are none: all.

    Raises:
      UserError: a pattern that fits no weight of the model.
    """
    if not patterns:
        return None
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init, 0).params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"config.meta.adapt: {pattern!r} fits no weight of the model, which has {listed(names)}")
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def streams(sections: Sections) -> Shapes:
    """Pairs of a support and a query batch."""
    return {name: (sections["meta"]["steps"], sections[name]["batch_size"]) for name in ("support", "query")}


def choose_chunk(init: Callable[[int], TrainState], pairs: int) -> int:
    """How many pairs to vmap together: all, or one where the model has convolutions.

    vmap makes a convolution of several kernels a grouped one, several times slower; matrix products gain from it.
    """
    kernels = jax.tree.leaves(jax.eval_shape(init, 0).params)
    return 1 if any(kernel.ndim > 2 for kernel in kernels) else pairs


def priors(sections: Sections, shares: Mapping[str, np.ndarray], class_counts: np.ndarray) -> np.ndarray:
    """Those of the query loss, and β times those of the support loss: what is minimised is the sum of both."""
    of_loss = losses.prior_factor(sections["loss"], class_counts)
    return (shares["query"] + sections["meta"]["beta"] * shares["support"]) * of_loss


METABALANCE = Recipe(
    build,
    streams=streams,
    epoch_stream="query",
    priors=priors,
    sections={
        "support": stream_section("what metabalance adapts to", "natural", 24, *SUPPORT_OPTIONS),
        "query": stream_section("what metabalance minimises the loss on after it has adapted", "under", 16),
        "meta": Section("metabalance", OPTIONS),
    },
)
