"""What identifies a run: its configuration, or a fingerprint of its objects."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.data import Split
from dal_jax.training import experiment as experiments
from dal_jax.training.parallel import axis_name
from dal_jax.training.plan import Options, Plan

_ADDRESS = re.compile(r"0x[0-9a-f]+")
# This many evenly spaced inputs are compared.
_SAMPLE = 1_000


@dataclasses.dataclass(frozen=True)
class Identity:
    """What decides a run, as JSON values.

    Attributes:
      values: nested dictionaries, written to ``config.json``.
      defaults: what a value that an earlier version did not write counts as.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def fingerprint(plan: Plan) -> Identity:
    """Returns the identity of a run by objects.

    Data are compared by all labels and a sample of the inputs. The network, loss,
    optimizer and preprocessing are compared by the training step that they form: its
    text as JAX prints it, and the arrays that it holds. Another version of JAX prints
    another text, so under another version the step is not compared.
    """
    step = {jax.__version__.replace(".", "-"): _of_step(plan)}
    options = dataclasses.asdict(plan.options)
    options_by_default = dataclasses.asdict(Options(num_epochs=0, batch_size=1))
    return Identity(
        {
            "objects": {
                "data": {name: _of_split(s) for name, s in plan.splits.items()},
                "training_step": step,
                "seeds": dict(plan.seeds),
                "options": options,
                "loss_name": plan.loss_name,
            }
        },
        {"objects": {"training_step": step, "options": options_by_default}},
    )


def _of_split(split: Split) -> dict[str, Any]:
    chosen = np.unique(np.linspace(0, len(split) - 1, _SAMPLE).astype(int))
    inputs = np.stack([split.inputs[int(i)] for i in chosen])
    return {
        "examples": len(split),
        "input_shape": list(split.input_shape),
        "dtype": str(split.inputs.dtype),
        "inputs": _digest([inputs]),
        "labels": _digest([split.labels]),
    } | (
        {}
        if split.label_distributions is None
        else {"label_distributions": _digest([split.label_distributions])}
    )


def _of_step(plan: Plan) -> int:
    key = jax.random.key(0)
    init = experiments.make_init(plan)
    initial = jax.make_jaxpr(init)(key)
    state = jax.eval_shape(init, key)
    dtype = jax.dtypes.canonicalize_dtype(plan.train.inputs.dtype)
    size = plan.options.batch_size
    batch = {
        "inputs": jax.ShapeDtypeStruct((size, *plan.train.input_shape), dtype),
        "labels": jax.ShapeDtypeStruct(
            (size, *plan.train.labels.shape[1:]),
            jax.dtypes.canonicalize_dtype(plan.train.labels.dtype),
        ),
        "position": jax.ShapeDtypeStruct((size,), np.int32),
    }
    if plan.train.label_distributions is not None:
        shape = (size, *plan.train.label_distributions.shape[1:])
        batch["label_distributions"] = jax.ShapeDtypeStruct(shape, np.float32)
    step = jax.make_jaxpr(_unmapped(plan))(state, batch)
    texts = [_ADDRESS.sub("", str(traced)).encode() for traced in (initial, step)]
    arrays = [x for x in (*initial.consts, *step.consts) if not _is_key(x)]
    return _digest([np.frombuffer(text, np.uint8) for text in texts] + arrays)


def _unmapped(plan: Plan) -> Callable[..., Any]:
    """The training step on one device, whose network may know the mapped axis."""
    axis = axis_name(plan.options.parallel)
    step = experiments.make_train_step(plan, axis)
    if axis is None:
        return step

    def on_one(state: Any, batch: Any) -> Any:
        shard = jax.tree.map(lambda x: x[None], batch)
        return jax.vmap(step, in_axes=(None, 0), axis_name=axis)(state, shard)

    return on_one


def _digest(arrays: list[Any]) -> int:
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
    return crc


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
