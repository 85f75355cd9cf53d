"""A function of inputs as a file that runs elsewhere: StableHLO or ONNX.

Both hold everything: preprocessing, network and softmax. The batch size is free.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from dal_jax.errors import InputError, unknown_name

Function = Callable[[jax.Array], jax.Array]
_PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(
    function: Function, shape: Sequence[int], dtype: np.dtype, format: str
) -> bytes:
    """Returns a file's content.

    Args:
      function: inputs ``[batch, *shape]`` to probabilities.
      shape: of one input.
      dtype: of inputs.
      format: ``"stablehlo"``, which ``jax.export.deserialize(content).call(inputs)``
        runs on CPU, NVIDIA GPU and TPU; or ``"onnx"``.

    Raises:
      InputError: another format, or what writes it is not installed.

    Example:
      >>> content = serialize(lambda x: x + 1, (2,), np.dtype("float32"), "stablehlo")
      >>> restored = jax.export.deserialize(bytearray(content))
      >>> restored.call(np.zeros((3, 2), np.float32)).shape
      (3, 2)
    """
    check_format(format)
    return _FORMATS[format](
        function, tuple(shape), jax.dtypes.canonicalize_dtype(dtype)
    )


def check_format(format: str) -> None:
    """Raises InputError for a format that cannot be written."""
    if format not in _FORMATS:
        raise unknown_name("format", format, _FORMATS)
    if format == "onnx":
        _jax2onnx()


def _stablehlo(function: Function, shape: tuple[int, ...], dtype: Any) -> bytes:
    (batch,) = export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *shape), dtype)
    exported = export.export(jax.jit(function), platforms=_PLATFORMS)(inputs)
    return bytes(exported.serialize())


def _onnx(function: Function, shape: tuple[int, ...], dtype: Any) -> bytes:
    jax2onnx = _jax2onnx()
    inputs = jax.ShapeDtypeStruct(("batch", *shape), dtype)
    try:
        model = jax2onnx.to_onnx(
            function,
            inputs=[inputs],
            model_name="dal_jax",
            input_names=["inputs"],
            output_names=["probabilities"],
        )
        return model.SerializeToString()
    except Exception as error:
        # It does not know every operation of JAX, and raises what it likes.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"jax2onnx cannot write this network ({reason}): expected operations that "
            "it knows; take format stablehlo"
        ) from error


def _jax2onnx() -> Any:
    # An extra: nothing else needs it.
    try:
        return importlib.import_module("jax2onnx")
    except ImportError:
        raise InputError(
            "format onnx needs jax2onnx, which is not installed: install it with "
            "pip install 'dal_jax[onnx]', or take format stablehlo"
        ) from None


_FORMATS = {"stablehlo": _stablehlo, "onnx": _onnx}
