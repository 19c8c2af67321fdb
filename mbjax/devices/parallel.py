"""Where an update's work lies: a mesh of devices, of one host or of many. The only file that counts devices.

A mesh has two axes. Along `pairs` each group of devices takes its share of the pairs, and one all-reduce sums what they
found. Along `batch` the devices of a group share every batch: XLA's partitioner splits it, so the model and its loss
still see the whole of it, BatchNorm's statistics and dropout included. Plain training has one group.

On a CPU, XLA runs the small matrix products of an MLP on one core. Two CPU devices with half of the pairs each use two.
"""

import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mbjax.meta_checks import count_pairs
from mbjax.state import TrainState
from mbjax.types import Batch, Metrics, PyTree, UserError

Parallel = Literal["auto", "shard_map", "pmap", "none"]
AXIS = "pairs"
"""The mapped axis: the `axis_name` of a meta-step that is spread."""
BATCH = "batch"

_PAIRS_PER_CPU_DEVICE = 8
_PARAMETERS_ON_CPU = 50_000  # on two cores, MLPs of 10,000 and 26,000 gained; one of 85,000 and the CNN lost
_EXAMPLES_PER_DEVICE = 16  # of plain training: a guess, not measured on GPUs


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


def check_processes(parallel: Parallel) -> None:
    """Raises a UserError if there are several processes and `config.parallel` is for one."""
    if jax.process_count() > 1 and parallel in ("none", "pmap"):
        raise UserError(
            f"config.parallel={parallel!r} is for one process, and these are {jax.process_count()}: "
            "choose auto or shard_map"
        )


def choose_mesh(
    parallel: Parallel, *, batch: int, pairs: int | None = None, init: Callable[[int], TrainState]
) -> Mesh | None:
    """The devices that an update is spread over; None for JAX's default device.

    Args:
      parallel: `"none"` is one device; `"shard_map"` and `"pmap"` are all. `"auto"` is all accelerators, for plain
        training as many as have 16 examples each. CPU devices it takes only for pairs, at least 8 a device, of models
        without a state (BatchNorm) and of at most 50,000 parameters: others keep one device, whose products XLA spreads
        over cores by itself, and the memory of one. A job of several processes always takes all devices.
      batch: examples of a batch.
      pairs: of an update; None for plain training.
      init: `init(seed) -> state`, for the shapes of the model.
    """
    if parallel == "none":
        return None
    devices = jax.devices()
    if parallel == "auto" and jax.process_count() == 1:
        devices = devices[: _worthwhile(devices[0].platform == "cpu", batch, pairs, init)]
    groups = 1 if pairs is None else count_groups(len(devices), pairs, split=parallel != "pmap")
    return Mesh(np.array(devices).reshape(groups, -1), (AXIS, BATCH)) if len(devices) > 1 else None


def _worthwhile(cpu: bool, batch: int, pairs: int | None, init: Callable[[int], TrainState]) -> int:
    """How many devices are worth having."""
    if not cpu:
        return max(1, batch // _EXAMPLES_PER_DEVICE) if pairs is None else pairs * batch
    if pairs is None or pairs < 2 * _PAIRS_PER_CPU_DEVICE:
        return 1
    shapes = jax.eval_shape(init, 0)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    return 1 if shapes.model_state or parameters > _PARAMETERS_ON_CPU else pairs // _PAIRS_PER_CPU_DEVICE


def count_groups(devices: int, pairs: int, *, split: bool = True) -> int:
    """Groups of equally many devices: as many as there are pairs for, and batches are split no more than they must be.

    Eight devices are 8 groups for 80 pairs and for 81 (88 places), 4 groups of two devices for 4 pairs, one of eight
    for one pair. Without `split` every device is a group. Splitting costs all-reduces for each BatchNorm of each pass,
    so idle places are the lesser evil (`benchmarks/README.md`).
    """
    if not split:
        return devices
    return max(groups for groups in range(1, min(devices, pairs) + 1) if devices % groups == 0)


def padded(pairs: int, groups: int) -> int:
    """The next multiple of `groups`."""
    return pairs + -pairs % groups


def flat(mesh: Mesh | None) -> Mesh | None:
    """The same devices as one group, for what has no pairs."""
    return mesh and Mesh(mesh.devices.reshape(1, -1), (AXIS, BATCH))


def describe(mesh: Mesh | None) -> str:
    """The mesh in words."""
    if mesh is None:
        return f"1 {jax.default_backend()} device"
    groups, batch = mesh.devices.shape
    shares = [f"pairs by {groups}"] * (groups > 1) + [f"each batch by {batch}"] * (batch > 1)
    hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.size} {mesh.devices.flat[0].platform} devices{hosts} share {' and '.join(shares)}"


def spread(
    meta_step: Callable[..., tuple[TrainState, Metrics]],
    mesh: Mesh,
    *,
    pairs: int | None = None,
    wrapper: Literal["shard_map", "pmap"] = "shard_map",
) -> Callable[[TrainState, Batch, Batch], tuple[TrainState, Metrics]]:
    """Spreads the pairs of a meta-step over a mesh; the result is that of one device but for rounding.

    Where the pairs do not divide by the groups of devices, some are given again with weight 0 until they do.

    Args:
      meta_step: of `mbjax.meta.make_meta_step(..., axis_name=AXIS)`. Its chunks are of each group's own pairs.
      mesh: of `choose_mesh`, with any number of groups.
      pairs: how many there are; those beyond, in the batches that a step is given, are padding. All if None.
      wrapper: `jax.shard_map`, or `jax.pmap` on the devices of one process, each a group.

    Returns:
      A jitted `step(state, support, query) -> (state, metrics)` that donates `state`; it may be called within `jit`.
      State and batches should lie on the mesh (`replicate`), or each call copies them there.
    """
    groups = mesh.shape[AXIS]

    def update(state, pairs):
        return meta_step(state, *pairs)

    if wrapper == "pmap":
        spread_update = jax.pmap(update, AXIS, in_axes=(None, 0), out_axes=None, devices=list(mesh.devices.flat))
        arrange = lambda x: x.reshape(groups, -1, *x.shape[1:])  # noqa: E731
    else:
        # The batch axis is left to the partitioner, unless there is nothing for it to do.
        mapped = {AXIS} if mesh.shape[BATCH] > 1 else {AXIS, BATCH}
        specs = PartitionSpec(), PartitionSpec(AXIS)
        spread_update = jax.shard_map(
            update, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), axis_names=mapped
        )  # fmt: skip
        arrange = lambda x: x  # noqa: E731

    def step(state: TrainState, support: Batch, query: Batch) -> tuple[TrainState, Metrics]:
        given = count_pairs(support, query)
        rows = np.arange(padded(given, groups))
        if len(rows) > given:
            support, query = jax.tree.map(lambda x: x[rows % given], (support, query))
        wanted = given if pairs is None else pairs
        weights = jnp.asarray(rows < wanted) if len(rows) > wanted else None
        if mesh.shape[BATCH] > 1:
            support, query = (split(batch, mesh, axes=2) for batch in (support, query))
        return spread_update(state, jax.tree.map(arrange, (support, query, weights)))

    return jax.jit(step, donate_argnums=0)


def split(batch: Batch, mesh: Mesh | None, *, axes: int) -> Batch:
    """Within `jit`: tells the partitioner that batches lie spread; as they are without a mesh.

    Args:
      batch: arrays `[batch, ...]` or, with two axes, `[pairs, batch, ...]`.
      mesh: of `choose_mesh`.
      axes: 1 or 2.
    """
    return batch if mesh is None else jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, _spec(axes)))


def keep_replicated(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Within `jit`: tells the partitioner that every device holds the whole."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, replicated(mesh))


def _spec(axes: int) -> PartitionSpec:
    return PartitionSpec(*(AXIS, BATCH)[2 - axes :])


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """A copy of every array on each device, so that no call of a spread step copies; `tree` itself without a mesh.

    Every process gives the same arrays.
    """
    if mesh is None:
        return tree

    def put(x: Any) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(x, replicated(mesh))
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, replicated(mesh), x.__getitem__)

    return jax.tree.map(put, tree)


def feed(read: Callable[[np.ndarray], Any], rows: np.ndarray, mesh: Mesh | None) -> PyTree:
    """What the devices are given of the batches of several updates; each process reads its devices' part alone.

    Args:
      read: `read(part of rows) -> tree of arrays`, whose first axes are the part's; what they have beyond is theirs.
      rows: indices of examples, `[updates, batch]` or `[updates, pairs, batch]`. Where the pairs do not divide by the
        mesh's groups, the first ones come again until they do.
      mesh: of `choose_mesh`; None for the default device.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, read(rows))
    if rows.ndim == 3:
        rows = rows[:, np.arange(padded(rows.shape[1], mesh.shape[AXIS])) % rows.shape[1]]
    spec = [None, *_spec(rows.ndim - 1)]
    for axis, (name, size) in enumerate(zip(spec, rows.shape, strict=True)):
        if name is not None and size % mesh.shape[name]:
            spec[axis] = None  # every device gets all of what does not divide, a small batch
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    parts = [part for part in sharding.addressable_devices_indices_map(rows.shape).values() if part is not None]
    boxes = np.array([[s.indices(size)[:2] for s, size in zip(part, rows.shape, strict=True)] for part in parts])
    lows, highs = boxes[..., 0].min(axis=0).tolist(), boxes[..., 1].max(axis=0).tolist()
    own = read(rows[tuple(map(slice, lows, highs))])

    def put(array: np.ndarray) -> jax.Array:
        def cut(index: Any) -> np.ndarray:
            starts = [s.indices(size)[:2] for s, size in zip(index[: rows.ndim], rows.shape, strict=True)]
            return array[tuple(slice(a - low, b - low) for (a, b), low in zip(starts, lows, strict=True))]

        return jax.make_array_from_callback((*rows.shape, *array.shape[rows.ndim :]), sharding, cut)

    return jax.tree.map(put, own)
