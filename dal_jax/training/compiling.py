"""How programs are given to the compiler: with which options, and without arrays."""

from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
from jax.core import eval_jaxpr

PyTree = Any


def for_every_core(platform: str) -> dict[str, str] | None:
    """Returns the options of a program that runs often: convolutions use every core.

    On the CPU, jaxlib 0.10.2, the last for Python 3.11, runs a convolution by a library
    of XLA's (YNNPACK) on one core, however many there are; its neighbours 0.10.1 and
    0.11 use all. Without that library it does too.

    Args:
      platform: of the devices, ``"cpu"``, ``"gpu"`` or ``"tpu"``.
    """
    on_one_core = platform == "cpu" and metadata.version("jaxlib") == "0.10.2"
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if on_one_core else None


def for_one_use() -> dict[str, int] | None:
    """Returns the options of a program that runs once: little optimized on the CPU.

    It compiles in a third of the time, to the same bits; level 0 gives other ones.
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 1}


def without_arrays(
    function: Callable[..., PyTree], *args: Any
) -> tuple[Callable[..., PyTree], list[jax.Array], PyTree]:
    """Returns a function that takes the arrays it holds first, and these arrays.

    The compiler would copy them into its program: weights from a file are hundreds of
    megabytes, which a compilation cache would then keep. Third come the shapes of the
    function's result.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(*args)

    def run(held: list[jax.Array], *args: Any) -> PyTree:
        leaves = eval_jaxpr(closed.jaxpr, held, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return run, closed.consts, result
