"""The pairs of one update, spread over the devices of this machine; the only file that counts devices.

On a CPU, XLA runs the small matrix products of an MLP on one core. Two CPU devices with half of the pairs each use two.
"""

import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mbjax.state import TrainState
from mbjax.types import Batch, Metrics, PyTree

Parallel = Literal["auto", "shard_map", "pmap", "none"]
Devices = tuple[Any, ...]
"""Of `jax.local_devices()`."""
AXIS = "pairs"
"""The mapped axis: the `axis_name` of a meta-step that is spread."""

_PAIRS_PER_CPU_DEVICE = 8
_PARAMETERS_ON_CPU = 50_000  # on two cores, MLPs of 10,000 and 26,000 gained; one of 85,000 and the CNN lost


def use_all_cores() -> None:
    """Makes one CPU device of each core that this process may use. JAX must not have been used yet.

    Nothing changes on one core, nor where the number is set already (`JAX_NUM_CPU_DEVICES`, `XLA_FLAGS`). Where there
    is an accelerator, JAX goes on using that.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = jax.config.values["jax_num_cpu_devices"] >= 0
    told = told or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if cores > 1 and not told:
        jax.config.update("jax_num_cpu_devices", cores)


def choose_devices(parallel: Parallel, *, pairs: int, init: Callable[[int], TrainState]) -> Devices:
    """The devices that the pairs of an update are spread over; empty for JAX's default device.

    Args:
      parallel: `"none"` is one device; `"shard_map"` and `"pmap"` are all of this process. `"auto"` is all
        accelerators; CPU devices only for models without a state (BatchNorm) and of at most 50,000 parameters, with at
        least 8 pairs a device. Larger ones keep one device, whose products XLA spreads over cores by itself, and the
        memory of one.
      pairs: of an update.
      init: `init(seed) -> state`, for the shapes of the model.
    """
    devices = tuple(jax.local_devices())
    if parallel == "auto" and devices[0].platform == "cpu":
        devices = devices[: max(1, pairs // _PAIRS_PER_CPU_DEVICE)]
        if len(devices) > 1:
            shapes = jax.eval_shape(init, 0)
            parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
            if shapes.model_state or parameters > _PARAMETERS_ON_CPU:
                devices = ()
    return devices if parallel != "none" and len(devices) > 1 else ()


def spread(
    meta_step: Callable[..., tuple[TrainState, Metrics]],
    devices: Devices,
    *,
    wrapper: Literal["shard_map", "pmap"] = "shard_map",
) -> Callable[[TrainState, Batch, Batch], tuple[TrainState, Metrics]]:
    """Spreads the pairs of a meta-step over devices; the result is that of one device but for rounding.

    Where the pairs do not divide by the devices, some are given again with weight 0 until they do.

    Args:
      meta_step: of `mbjax.meta.make_meta_step(..., axis_name=AXIS)`. Its chunks are of each device's own pairs.
      devices: at least one.
      wrapper: `jax.shard_map` or `jax.pmap`.

    Returns:
      A jitted `step(state, support, query) -> (state, metrics)` that donates `state`; it may be called within `jit`.
      State and batches should lie on all devices (`replicate`), or each call copies them there.
    """
    count = len(devices)

    def update(state, pairs):
        return meta_step(state, *pairs)

    if wrapper == "pmap":
        spread_update = jax.pmap(update, AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
        arrange = lambda x: x.reshape(count, -1, *x.shape[1:])  # noqa: E731
    else:
        specs = PartitionSpec(), PartitionSpec(AXIS)
        spread_update = jax.shard_map(update, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec())
        arrange = lambda x: x  # noqa: E731

    def step(state: TrainState, support: Batch, query: Batch) -> tuple[TrainState, Metrics]:
        pairs = jax.tree.leaves(query)[0].shape[0]
        rows = np.arange(pairs + -pairs % count)
        weights = None
        if len(rows) > pairs:
            support, query = jax.tree.map(lambda x: x[rows % pairs], (support, query))
            weights = jnp.asarray(rows < pairs)
        return spread_update(state, jax.tree.map(arrange, (support, query, weights)))

    return jax.jit(step, donate_argnums=0)


def replicate(tree: PyTree, devices: Devices) -> PyTree:
    """A copy of every array on each device, so that no call of a spread step copies; `tree` itself for no devices."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec())) if devices else tree


def one_copy(tree: PyTree) -> PyTree:
    """Replicated arrays as they lie on one device: what only one device computes (a score) reads these."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def _mesh(devices: Devices) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))
