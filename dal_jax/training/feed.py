"""How examples reach the compiled step: resident on the device, or streamed.

Inputs that fit live on the device; a call then hands over nothing but which rows of
the order to run, and a loop inside the compiled program gathers each batch. Inputs
that do not fit are decoded by the data pipeline and handed over batch by batch.
Either way the same pure function runs on the same batches in the same order.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dal_jax.data import Split, batches
from dal_jax.seeds import numpy_rng
from dal_jax.training.parallel import Pmap, ShardedJit
from dal_jax.training.processes import agree, local_rows
from dal_jax.training.programs import BatchFunction, batch_program, rows_program

PyTree = Any

# Long enough that the host's share of a call is tiny, short enough to answer Ctrl-C.
_CALL_SECONDS = 1.0
# Rows of a program of its own length: many share one call's cost, and even where each
# takes a tenth of a second the call is soon over.
_FEWEST_ROWS, _MOST_ROWS = 10, 50


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs a batch function over rows of an order.

    Attributes:
      run: ``(context, carry, order, first, last) -> carry``, over rows [first, last).
      unit: the rows of one program. A call begins at a multiple of it, and ends at one
      or
        at the order's end, so the same programs run at any speed.
    """

    run: Callable[[PyTree, PyTree, np.ndarray, int, int], PyTree]
    unit: int = 1

    def __call__(
        self, context: PyTree, carry: PyTree, order: np.ndarray, first: int, last: int
    ) -> PyTree:
        """Runs the rows ``[first, last)``."""
        return self.run(context, carry, order, first, last)


class Pace:
    """How many rows to run in one call: as many as take about a second."""

    def __init__(self, unit: int = 1):
        self._unit = self._rows = unit

    def calls(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yields the bounds of each call; what is done until the next is its time."""
        while first < end:
            last = min(first + self._rows, end)
            began = time.perf_counter()
            yield first, last
            seconds = time.perf_counter() - began
            rows = self._rows
            # What is left at the end is quick because it is short.
            if seconds < _CALL_SECONDS and last - first == rows:
                rows = min(2 * rows, max(end, self._unit))
            elif seconds > 3 * _CALL_SECONDS:
                rows = max(rows // 2 // self._unit, 1) * self._unit
            # Clocks differ, so all processes use the main one's answer.
            self._rows = agree(rows)
            first = last


def epoch_order(seed: int, epoch: int, num_examples: int, batch: int) -> np.ndarray:
    """Returns the positions of an epoch's batches: int32 ``[steps, batch]``.

    Every example comes once; the last batch is filled up with the epoch's first ones,
    so that all batches are of one size and the number of steps is rounded up.
    """
    order = numpy_rng(seed, f"data order of epoch {epoch}").permutation(num_examples)
    steps = -(-num_examples // batch)
    return np.resize(order, (steps, batch)).astype(np.int32)


def sequential_order(positions: np.ndarray, batch: int) -> np.ndarray:
    """Returns batches of positions in order: int32 ``[steps, batch]``, padded by -1."""
    steps = -(-len(positions) // batch)
    order = np.full(steps * batch, -1, np.int32)
    order[: len(positions)] = positions
    return order.reshape(steps, batch)


class Resident(NamedTuple):
    """Inputs on the devices.

    Attributes:
      flat: ``[N, size]``: a TPU reads rows from an array whose last two axes it pads to
        32 and 128, which takes four times the memory for images of 32x32 pixels.
      shape: of one example.
    """

    flat: jax.Array
    shape: tuple[int, ...]


def place_inputs(parallel: ShardedJit | Pmap, split: Split) -> Resident | Split:
    """Returns a split's inputs on the devices, or the split where they must stream."""
    if not split.in_memory:
        return split
    rows = np.asarray(split.inputs)
    flat = rows.reshape(len(split), math.prod(split.input_shape))
    return Resident(parallel.place_data(flat), split.input_shape)


def make_runner(
    parallel: ShardedJit | Pmap,
    inputs: Resident | Split,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    *,
    rows: int,
    donate: bool = False,
    workers: int | None = None,
) -> Runner:
    """Returns what runs a batch function over rows of an order.

    Args:
      parallel: the devices.
      inputs: what :func:`place_inputs` returned.
      arrays: further arrays ``[N]``, e.g. ``labels``.
      function: pure, ``(context, carry, batch) -> carry``; a batch has ``inputs``, the
        arrays' names, ``position`` and ``mask`` (false where the order is -1).
      rows: how many an order has.
      donate: whether the carry's buffers may be reused.
      workers: threads that decode a stream; ``None`` for one a core.
    """
    if isinstance(inputs, Split):
        run = _streamed(parallel, inputs, arrays, function, donate, workers)
        return Runner(run)
    unit = scan_length(rows) if scans() else 1
    run = _resident(parallel, inputs, arrays, function, donate, unit)
    return Runner(run, unit)


def scans() -> bool:
    """Returns whether programs have a fixed number of rows.

    A loop whose end is a number on the device makes a GPU wait for the host at each
    iteration; ``lax.scan`` does not. On the CPU this gains nothing, and one program for
    any number of rows is compiled only once.
    """
    return jax.default_backend() != "cpu"


def scan_length(rows: int) -> int:
    """Returns how many of an order's rows one program runs.

    A divisor of their number if a suitable one exists, because left-over rows need
    their own program.

    Example:
      >>> scan_length(391), scan_length(20), scan_length(97)
      (23, 20, 50)
    """
    fit = [n for n in range(_FEWEST_ROWS, _MOST_ROWS + 1) if rows % n == 0]
    return max(fit, default=min(rows, _MOST_ROWS))


def _resident(
    parallel: ShardedJit | Pmap,
    inputs: Resident,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    donate: bool,
    unit: int,
) -> Callable[..., PyTree]:
    resident = {"inputs": inputs.flat, **parallel.place_data(arrays)}

    @functools.cache
    def program(length: int | None) -> Callable[..., PyTree]:
        return rows_program(parallel, function, length, inputs.shape, donate=donate)

    host_order: np.ndarray | None = None
    device_order: jax.Array | None = None

    def run(context, carry, order, first, last):
        nonlocal host_order, device_order
        if order is not host_order:
            host_order, device_order = order, parallel.place_order(order)
        if unit == 1:
            bounds = first, last
            return program(None)(carry, context, resident, device_order, *bounds)
        for row in range(first, last, unit):
            rows = program(min(unit, last - row))
            carry = rows(carry, context, resident, device_order, row)
        return carry

    return run


def _streamed(
    parallel: ShardedJit | Pmap,
    split: Split,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    donate: bool,
    workers: int | None,
) -> Callable[..., PyTree]:
    batches.import_grain()
    compiled = batch_program(parallel, function, donate=donate)
    host_order: np.ndarray | None = None
    decoded: Iterator[np.ndarray] = iter(())
    row = 0

    def run(context, carry, order, first, last):
        nonlocal host_order, decoded, row
        share = np.maximum(order[:, local_rows(order.shape[1])], 0)
        if order is not host_order or row != first:
            # Otherwise the stream of the call before is decoding ahead already.
            host_order, row = order, first
            decoded = batches.stream(split, share[first:], workers=workers)
        for row in range(first, last):
            batch = {name: x[share[row]] for name, x in arrays.items()}
            positions = order[row, local_rows(order.shape[1])]
            batch |= {"inputs": next(decoded), "position": positions}
            carry = compiled(carry, context, parallel.place_batch(batch))
        row = last
        return carry

    return run
