"""Devices, meshes and maps, which no other file knows.

There are two ways to run the same pure step on many devices. :class:`ShardedJit` (the
default) lets ``jax.jit`` partition one program over a mesh whose ``data`` axis shares
the batch and whose optional ``model`` axis shares the classes; the program reads as if
there were one device, batch norm included. :class:`Pmap` replicates the state and maps
the step over the devices, which then speak through ``axis_name``.

Both place the same values: a *state* (replicated, donated), *data* (replicated), an
*order* ``[steps, batch]`` and a *batch* ``[batch, ...]`` (shared over the devices).
Every process holds the whole order and computes with its own share of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dal_jax.errors import InputError, unknown_name
from dal_jax.training.compiling import for_every_core, for_one_use, without_arrays
from dal_jax.training.processes import is_alone, local_rows, whole

PyTree = Any
MODES = ("jit", "pmap")


def axis_name(mode: str) -> str | None:
    """Returns the mapped axis over which a network's batch norm must average."""
    return Pmap.axis_name if mode == "pmap" else None


def make_parallel(
    mode: str, batch_size: int, model_devices: int = 1
) -> "ShardedJit | Pmap":
    """Returns what runs a step on all devices of all processes.

    Args:
      mode: ``"jit"`` or ``"pmap"``.
      batch_size: over all devices, a multiple of the number of devices.
      model_devices: devices that share the class axis of the last layer (``jit``).

    Raises:
      InputError: an unknown mode, or a batch that the devices cannot share.
    """
    if mode not in MODES:
        raise unknown_name("parallel mode", mode, MODES)
    devices = jax.device_count()
    if (
        model_devices < 1
        or devices % model_devices
        or (mode == "pmap" and model_devices > 1)
    ):
        raise InputError(
            f"model_devices={model_devices} does not fit: expected a divisor of the "
            f"{devices} devices, and parallel=jit; set --config.model_devices=1"
        )
    if batch_size % devices:
        raise InputError(
            f"batch_size={batch_size} cannot be shared by {devices} devices: expected "
            f"a multiple of {devices}; set --config.batch_size"
            f"={-(-batch_size // devices) * devices}"
        )
    return Pmap() if mode == "pmap" else ShardedJit(model_devices)


class ShardedJit:
    """One program over a mesh, partitioned by the compiler."""

    axis_name = None

    def __init__(self, model_devices: int = 1, devices: Sequence[Any] | None = None):
        """Takes all devices there are, or those of another machine to compile for."""
        grid = np.array(devices or jax.devices()).reshape(-1, model_devices)
        # Auto axes: with Explicit ones gradients of sharded gathers fail on jax 0.12.
        self._mesh = Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
        self._replicated = NamedSharding(self._mesh, P())
        # Devices that share the classes share the batch too: all before the last layer
        # is then computed once, and between them travel its inputs.
        self._of_batch = P(("data", "model"))

    def place_state(self, tree: PyTree) -> PyTree:
        """Puts host values on the devices, in buffers that may be donated."""
        placed = jax.tree.map(_put, tree, self._shardings(tree))
        return jax.jit(_copy, out_shardings=self._shardings(tree))(placed)

    def abstract_stored_state(self, state: PyTree) -> PyTree:
        """Returns shapes, dtypes and shardings of a state's stored form."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            state,
            self._shardings(state),
        )

    def init_state(self, init: Callable[..., PyTree], *args: Any) -> PyTree:
        """Runs ``init`` with its result laid out as a state."""
        init, held, shapes = without_arrays(init, *args)
        shardings = self._shardings(shapes)
        compiled = jax.jit(
            init, out_shardings=shardings, compiler_options=for_one_use()
        )
        return compiled(held, *args)

    def stored_state(self, state: PyTree) -> PyTree:
        """Returns a state in the form that is checkpointed: one copy of each array."""
        return state

    def place_data(self, tree: PyTree) -> PyTree:
        """Puts host arrays on every device."""
        return jax.tree.map(lambda x: _put(x, self._replicated), tree)

    def place_order(self, order: np.ndarray) -> jax.Array:
        """Shares an order ``[steps, batch]`` over the devices by its batch axis."""
        return _put(order, NamedSharding(self._mesh, P(None, *self._of_batch)))

    def place_batch(self, local: PyTree) -> PyTree:
        """Makes a batch of this process's share, ``[batch / processes, ...]``."""
        sharding = NamedSharding(self._mesh, self._of_batch)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x), local
        )

    def constrain_batch(self, batch: PyTree) -> PyTree:
        """Inside a compiled function: keeps a batch shared over the devices."""
        sharding = NamedSharding(self._mesh, self._of_batch)
        return lax.with_sharding_constraint(batch, sharding)

    def gather(self, batch: PyTree) -> PyTree:
        """Inside a compiled function: gives every device the whole batch."""
        return lax.with_sharding_constraint(batch, self._replicated)

    def neighbours(self, batch: PyTree) -> PyTree:
        """Inside a compiled function: the example before each; the last is first."""
        return jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)

    def compile(
        self, fn: Callable[..., PyTree], *, scalars: int = 0, donate: bool = False
    ) -> Callable[..., PyTree]:
        """Compiles ``fn``, whose last ``scalars`` arguments are host numbers."""
        del scalars

        def constrained(*args: Any) -> PyTree:
            result = fn(*args)
            return lax.with_sharding_constraint(result, self._shardings(result))

        return jax.jit(
            constrained,
            donate_argnums=(0,) if donate else (),
            compiler_options=for_every_core(self._mesh.devices.flat[0].platform),
        )

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns arrays as host arrays; every process must ask."""
        return jax.tree.map(whole, tree)

    def _shardings(self, tree: PyTree) -> PyTree:
        if self._mesh.shape["model"] == 1:
            return jax.tree.map(lambda _: self._replicated, tree)

        def of_leaf(path: Any, leaf: Any) -> NamedSharding:
            in_head = any(_key_name(key) == "head" for key in path)
            shared = in_head and leaf.shape[-1:] != ()
            shared = shared and leaf.shape[-1] % self._mesh.shape["model"] == 0
            axes = (*(None,) * (leaf.ndim - 1), "model") if shared else ()
            return NamedSharding(self._mesh, P(*axes))

        return jax.tree_util.tree_map_with_path(of_leaf, tree)


class Pmap:
    """The state replicated along a leading device axis, the step mapped over it."""

    axis_name = "data"

    def __init__(self):
        self._local = jax.local_device_count()
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        self._per_device = NamedSharding(mesh, P("data"))
        self._whole = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P())

    def place_state(self, tree: PyTree) -> PyTree:
        """Puts host values on the devices, in buffers that may be donated."""
        return jax.pmap(_copy)(self.place_data(tree))

    def abstract_stored_state(self, state: PyTree) -> PyTree:
        """Returns shapes, dtypes and shardings of a state's stored form."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=self._whole),
            state,
        )

    def init_state(self, init: Callable[..., PyTree], *args: Any) -> PyTree:
        """Runs ``init`` once and replicates its result."""
        init, held, _ = without_arrays(init, *args)
        compiled = jax.jit(init, compiler_options=for_one_use())
        return self.place_state(jax.device_get(compiled(held, *args)))

    def stored_state(self, state: PyTree) -> PyTree:
        """Returns a state in the form that is checkpointed: one copy of each array."""
        return jax.tree.map(lambda x: _put(x, self._whole), self.fetch(state))

    def place_data(self, tree: PyTree) -> PyTree:
        """Puts host arrays on every device."""
        return jax.tree.map(
            lambda x: jax.device_put(
                np.broadcast_to(x, (self._local, *np.shape(x))), self._per_device
            ),
            jax.device_get(tree),
        )

    def place_order(self, order: np.ndarray) -> jax.Array:
        """Shares an order ``[steps, batch]`` over the devices by its batch axis."""
        rows = order[:, local_rows(order.shape[1])]
        shares = rows.reshape(len(order), self._local, -1).swapaxes(0, 1)
        return jax.device_put(shares, self._per_device)

    def place_batch(self, local: PyTree) -> PyTree:
        """Makes a batch of this process's share, ``[batch / processes, ...]``."""
        return jax.tree.map(
            lambda x: jax.device_put(
                x.reshape(self._local, -1, *x.shape[1:]), self._per_device
            ),
            local,
        )

    def constrain_batch(self, batch: PyTree) -> PyTree:
        """Inside a compiled function: a mapped batch is shared already."""
        return batch

    def gather(self, batch: PyTree) -> PyTree:
        """Inside a compiled function: gives every device the whole batch."""
        return lax.all_gather(batch, self.axis_name, tiled=True)

    def neighbours(self, batch: PyTree) -> PyTree:
        """Inside a compiled function: the example before each; the last is first."""
        devices = jax.device_count()
        ring = [(device, (device + 1) % devices) for device in range(devices)]

        def leaf(x: jax.Array) -> jax.Array:
            last = lax.ppermute(x[-1:], self.axis_name, ring)
            return jnp.concatenate([last, x[:-1]])

        return jax.tree.map(leaf, batch)

    def compile(
        self, fn: Callable[..., PyTree], *, scalars: int = 0, donate: bool = False
    ) -> Callable[..., PyTree]:
        """Compiles ``fn``, whose last ``scalars`` arguments are host numbers."""

        def mapped(*args: Any) -> PyTree:
            mapping = (0,) * (len(args) - scalars) + (None,) * scalars
            return _pmapped(mapping)(*args)

        compiled: dict[tuple[int | None, ...], Callable[..., PyTree]] = {}

        def _pmapped(mapping: tuple[int | None, ...]) -> Callable[..., PyTree]:
            if mapping not in compiled:
                compiled[mapping] = jax.pmap(
                    fn,
                    axis_name=self.axis_name,
                    in_axes=mapping,
                    donate_argnums=(0,) if donate else (),
                )
            return compiled[mapping]

        return mapped

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns replicated results as host arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)


def _put(value: Any, sharding: NamedSharding) -> jax.Array:
    if is_alone():
        return jax.device_put(value, sharding)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])


def _copy(tree: PyTree) -> PyTree:
    # Arrays that come from outside may share memory that must not be donated.
    return jax.tree.map(lambda x: x.copy(), tree)


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
