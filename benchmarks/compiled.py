"""What XLA's compilers for TPU and GPU report about the losses, without a device.

    pip install "dal_jax[compiled]"
    python benchmarks/compiled.py [--targets=v5e,v5p,v6e,h100] [--losses=dal,gce]
        [--shapes=65536x1000:float32,1024x128256:bfloat16] [--no-head]
        [--h100=h100.txtpb] [--out=benchmarks/results/compiled.json]

Nothing runs on the devices named here: their compilers run on this machine and say
what the program would move and keep. A row is one loss: its mean, integer labels, value
and gradient by ``jax.value_and_grad`` under ``jit`` on one chip. "passes" are the bytes
that its kernels read and write over the bytes of the logits: on TPU as the compiler
counts them, on GPU the operands and results of the kernels, read from the program's
text. A kernel that gathers a few numbers counts its whole operand, so that the figure
may be too high, never too low. The least is 2, and 3 where a row does not stay on the
chip between its sums and its gradient. "ms" is the compiler's own estimate, where it
gives one.

``elr`` gathers its examples' targets from a table; ``--losses=elr:given`` is given them
and returns the new ones.

The head is a last layer of 4096 features and 128256 classes on 8192 rows in bfloat16,
DAL, value and gradient by hidden states and kernel; its temporaries are given without
the float32 sum of the kernel's gradient.

The GPU's compiler needs a description of the device in XLA's text format, ``--h100``;
see compilers.py.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compilers  # isort: skip  (before JAX)
import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dal_jax import losses

SHAPES = "65536x1000:float32,8192x1000:bfloat16,{}x128256:bfloat16"
REFERENCE = "optax ce"
GIVEN = "elr:given"
STEP, TOTAL_STEPS = 800, 1000  # q is 1.32, so that dal bootstraps
HEAD = (8192, 4096, 128256)  # rows, features, classes


def main() -> None:
    arguments = parse()
    result: dict[str, Any] = {"machine": machine.describe(), "tables": [], "heads": []}
    result["machine"] |= compilers.versions()
    for target in arguments.targets.split(","):
        devices = compilers.devices_of(target, arguments.h100)
        if devices is None:
            print(f"{target}: its compiler is not installed, left out", file=sys.stderr)
            continue
        device = devices[0]
        shapes = arguments.shapes or SHAPES.format(
            1024 if target in compilers.TPUS else 8192
        )
        for shape in shapes.split(","):
            table = loss_table(target, device, shape, arguments.losses.split(","))
            result["tables"].append(table)
        if target in compilers.TPUS and not arguments.no_head:
            result["heads"].append(head_table(target, device))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join((*compilers.TPUS, "h100")))
    parser.add_argument("--losses", default=",".join(losses.names()))
    parser.add_argument("--shapes", help="ROWSxCLASSES:DTYPE,...")
    parser.add_argument("--no-head", action="store_true")
    parser.add_argument("--h100", help="the device's description, a .txtpb file")
    parser.add_argument("--out", help="also write a JSON file")
    return parser.parse_args()


def loss_table(target: str, device: Any, shape: str, names: list[str]) -> dict:
    size, dtype = shape.split(":")
    rows, num_classes = map(int, size.split("x"))
    logits = jax.ShapeDtypeStruct((rows, num_classes), dtype)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    nbytes = math.prod(logits.shape) * logits.dtype.itemsize
    print(f"\ncompiled for {target}, {size} {dtype}", flush=True)
    print(f"{'':22}{'passes':>8}{'/optax':>8}{'temp/logits':>13}{'ms':>8}", flush=True)
    table = {"target": target, "shape": size, "dtype": dtype, "rows": []}
    reference = None
    for name in (REFERENCE, *names):
        if name == GIVEN:
            targets = jax.ShapeDtypeStruct(logits.shape, jnp.float32)
            program, seconds = compile_for(
                device, elr_with_targets, logits, labels, targets
            )
        else:
            function = jax.value_and_grad(mean_loss(name, rows, num_classes))
            program, seconds = compile_for(device, function, logits, labels)
        facts = what_it_says(program, nbytes)
        reference = reference or facts["passes"]
        row = {"name": name, **facts, "to_optax": facts["passes"] / reference}
        table["rows"].append(row | {"compile_seconds": seconds})
        print(
            f"{name:22}{row['passes']:8.2f}{row['to_optax']:8.2f}"
            f"{row['temporaries']:13.2f}{row['ms'] or math.nan:8.2f}",
            flush=True,
        )
    return table


def mean_loss(name: str, rows: int, num_classes: int) -> Callable:
    if name == REFERENCE:
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return lambda logits, labels: cross_entropy(logits, labels).mean()
    given = {"noise_rate": 0.4} if "noise_rate" in losses.accepted(name) else {}
    loss = losses.make_stateful(
        name,
        total_steps=TOTAL_STEPS,
        num_classes=num_classes,
        num_examples=rows,
        **given,
    )

    def mean(logits, labels):
        index = jnp.arange(rows)
        return loss.apply(logits, labels, STEP, loss.init(), index)[0].mean()

    return mean


def elr_with_targets(logits, labels, targets):
    """Value, gradient and the new targets, whose rows nobody gathers here."""

    def mean(logits):
        moved = losses.elr_targets(logits, targets)
        return losses.elr(logits, labels, moved).mean(), moved

    return jax.value_and_grad(mean, has_aux=True)(logits)


def head_table(target: str, device: Any) -> dict[str, Any]:
    rows, features, num_classes = HEAD
    loss = losses.make("dal", total_steps=TOTAL_STEPS)
    forms = {
        "plain": lambda h, w, y: loss(h @ w, y, STEP).mean(),
        "from_hidden": lambda h, w, y: losses.from_hidden(loss)(h, w, y, STEP).mean(),
        "mean_from_hidden": lambda h, w, y: losses.mean_from_hidden(loss)(
            h, w, y, STEP
        ),
    }
    shapes = (
        jax.ShapeDtypeStruct((rows, features), jnp.bfloat16),
        jax.ShapeDtypeStruct((features, num_classes), jnp.bfloat16),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    accumulator = features * num_classes * 4
    table = {"target": target, "rows": []}
    print(f"\nhead compiled for {target}, {rows} x {features} x {num_classes} bfloat16")
    for name, function in forms.items():
        both = jax.value_and_grad(function, (0, 1))
        program, seconds = compile_for(device, both, *shapes)
        temporaries = program.memory_analysis().temp_size_in_bytes
        beside = temporaries - (0 if name == "plain" else accumulator)
        row = {"name": name, "temporaries": temporaries, "beside_accumulator": beside}
        table["rows"].append(row | {"compile_seconds": seconds})
        print(f"{name:22}{beside / 1e6:8.0f} MB beside the accumulator", flush=True)
    return table


def compile_for(device: Any, function: Callable, *shapes: Any) -> tuple[Any, float]:
    sharding = NamedSharding(Mesh(np.array([device]), ("chip",)), PartitionSpec())
    placed = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding) for s in shapes]
    start = time.perf_counter()
    program = jax.jit(function).lower(*placed).compile()
    return program, time.perf_counter() - start


def what_it_says(program: Any, nbytes: int) -> dict[str, float | None]:
    """Passes, temporaries and estimated time of a compiled program."""
    costs = program.cost_analysis() or {}
    moved = costs.get("bytes accessed") or compilers.moved_by_kernels(program.as_text())
    seconds = costs.get("optimal_seconds", -1)  # negative where it does not know
    return {
        "passes": moved / nbytes,
        "temporaries": program.memory_analysis().temp_size_in_bytes / nbytes,
        "ms": 1e3 * seconds if seconds > 0 else None,
    }


if __name__ == "__main__":
    main()
