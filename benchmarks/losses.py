"""Time and memory of every loss's value and gradient, against cross entropy.

    python benchmarks/losses.py [--losses=ce,gce,dal] [--shapes=128x10,4096x1000]
        [--dtypes=float32,bfloat16] [--seconds=20] [--no-torch]
        [--out=benchmarks/results/losses.json]

Hyper-parameters may follow a name: ``--losses=bi_tempered:t2=1.3,nfl:gamma=2``.

One line is one loss: its mean over the batch, integer labels, value and gradient by
``jax.value_and_grad`` under ``jit``. All lines of a table are interleaved in one
process, in another order every round, and every ratio is the median over the rounds of
the ratio within a round, so that a busy machine disturbs both sides alike. "CPU" is the
same ratio of processor time, over all threads, which other processes disturb least.
"bandwidth" is the share of the copy's bytes per second that the loss reaches when the
logits count as read twice and the gradient as written once. On a GPU:

    python benchmarks/losses.py --shapes=8192x128256 --dtypes=bfloat16
    python benchmarks/losses.py --shapes=65536x1000 --dtypes=float32

Where PyTorch is installed, the same maths written plainly in eager PyTorch follows, in
rounds of its own, because its threads keep the cores busy for a while after each call;
there the ratios are those to the medians.
"""

import argparse
import ast
import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

from dal_jax import losses

Call = Callable[[], Callable[[], Any]]  # what it returns waits for its end
ON_GPU = jax.default_backend() == "gpu"
SHAPES = ("128x10", "4096x1000", "2048x32000")
DTYPES = ("float32", "bfloat16")
REFERENCE, COPY = "optax ce", "copy"
STEP, TOTAL_STEPS = 800, 1000  # q is 1.32, so that dal bootstraps


# Else what a call frees goes back to the system and comes anew, page by page, or not,
# by what ran before: optax's cross entropy took 2.1 or 7 ms. Kept are arrays up to
# 32 MB, with glibc.
KEPT = {
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}


def main() -> None:
    arguments = parse()
    if not KEPT.items() <= os.environ.items():
        # The allocator reads them when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEPT)
    tables = []
    for shape in arguments.shapes.split(","):
        for dtype in arguments.dtypes.split(","):
            batch, num_classes = map(int, shape.split("x"))
            rows = measure(batch, num_classes, dtype, arguments)
            tables.append({"shape": shape, "dtype": dtype, "rows": rows})
            show(tables[-1])
    if arguments.out:
        result = {"machine": machine.describe(), "tables": tables}
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", default=",".join(losses.names()))
    parser.add_argument("--shapes", default=",".join(SHAPES), help="BATCHxCLASSES,...")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--seconds", type=float, default=20.0, help="a table")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--out", help="also write a JSON file")
    return parser.parse_args()


def measure(
    batch: int, num_classes: int, dtype: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((batch, num_classes), np.float32) * 2
    logits = jnp.asarray(drawn, dtype)
    labels = jnp.asarray(rng.integers(num_classes, size=batch), jnp.int32)
    calls, facts, torch = {}, {}, {}
    for name in (REFERENCE, COPY, *arguments.losses.split(",")):
        calls[name], facts[name] = compiled(name, logits, labels)
    if not arguments.no_torch and importlib.util.find_spec("torch"):
        torch = torch_calls(drawn, np.asarray(labels), dtype)
    times = interleave(calls, arguments.seconds)
    rows = [summary(name, times, times) | facts[name] for name in calls]
    own_times = interleave(torch, arguments.seconds / 4)
    medians = tuple({n: np.median(t) for n, t in kind.items()} for kind in times)
    return rows + [summary(name, own_times, medians) for name in torch]


Times = tuple[dict[str, Any], dict[str, Any]]  # wall and processor seconds by name


def summary(name: str, times: Times, references: Times) -> dict[str, Any]:
    wall, processor = (kind[name] for kind in times)
    ratio = wall / references[0][REFERENCE]
    low, middle, high = np.percentile(ratio, (25, 50, 75))
    return {
        "name": name,
        "ms": 1e3 * float(np.median(wall)),
        "to_optax": float(middle),
        "to_optax_quartiles": [float(low), float(high)],
        "to_optax_cpu": float(np.median(processor / references[1][REFERENCE])),
        "to_copy": float(np.median(wall / references[0][COPY])),
        # Copying reads once and writes once, the loss reads twice and writes once.
        "bandwidth": float(1.5 * np.median(references[0][COPY] / wall)),
        "rounds": len(wall),
    }


def compiled(
    name: str, logits: jax.Array, labels: jax.Array
) -> tuple[Call, dict[str, float]]:
    """A call that returns what waits for its end, and what XLA says of it."""
    function, memory = to_measure(name, *logits.shape)
    arguments = (logits, labels, jnp.asarray(STEP), jnp.arange(len(labels)))
    # What a loss remembers of its examples is donated, as a trainer does.
    lowered = jax.jit(function, donate_argnums=0).lower(memory, *arguments)
    start = time.perf_counter()
    program = lowered.compile()
    facts = {"compile_seconds": time.perf_counter() - start}
    analysis = program.memory_analysis()
    if analysis is not None:
        facts["temporaries"] = analysis.temp_size_in_bytes / logits.nbytes

    def call():
        nonlocal memory
        memory, results = program(memory, *arguments)
        if not ON_GPU:  # which is kept busy: it is timed, and not the dispatch
            jax.block_until_ready(results)
        return functools.partial(jax.block_until_ready, results)

    return call, facts


def to_measure(name: str, batch: int, num_classes: int) -> tuple[Callable, Any]:
    """``function(memory, logits, labels, step, index)`` and the memory to give it.

    It returns the memory to give next, and the loss with its gradient.
    """
    if name == COPY:
        return lambda memory, logits, *rest: (memory, jnp.copy(logits)), ()
    if name == REFERENCE:

        def mean(logits, labels, step, index, memory):
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return loss.mean(), memory

        memory = ()
    else:
        name, *numbers = name.split(":")
        pairs = (number.split("=") for number in numbers)
        given = {k: ast.literal_eval(v) for k, v in pairs}
        # The two corrections do not work without an assumption on the noise.
        if "noise_rate" in losses.accepted(name):
            given.setdefault("noise_rate", 0.4)
        loss = losses.make_stateful(
            name,
            total_steps=TOTAL_STEPS,
            num_classes=num_classes,
            num_examples=batch,
            **given,
        )
        memory = loss.init()

        def mean(logits, labels, step, index, memory):
            value, memory = loss.apply(logits, labels, step, memory, index)
            return value.mean(), memory

    def function(memory, *arguments):
        both = jax.value_and_grad(mean, has_aux=True)
        (value, memory), gradient = both(*arguments, memory)
        return memory, (value, gradient)

    return function, memory


def interleave(calls: dict[str, Call], budget: float) -> Times:
    """Wall and processor seconds a call, by round."""
    once = {}
    for name, call in calls.items():
        call()()
        start = time.perf_counter()
        call()()
        once[name] = time.perf_counter() - start
    # A timing of a few milliseconds at least, or the clock and the dispatch decide.
    shortest = 20e-3 if ON_GPU else 4e-3
    repeats = {name: max(1, int(shortest / seconds)) for name, seconds in once.items()}
    a_round = sum(repeats[name] * once[name] for name in calls)
    rounds = int(np.clip(budget / max(a_round, 1e-9), 5, 500))
    rng = np.random.default_rng(0)
    wall = {name: np.empty(rounds) for name in calls}
    processor = {name: np.empty(rounds) for name in calls}
    for i in range(rounds):
        for name in rng.permutation(list(calls)):
            call = calls[name]
            start, start_cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                wait = call()
            wait()
            wall[name][i] = (time.perf_counter() - start) / repeats[name]
            processor[name][i] = (time.process_time() - start_cpu) / repeats[name]
    return wall, processor


def torch_calls(logits: np.ndarray, labels: np.ndarray, dtype: str) -> dict[str, Call]:
    """Cross entropy, and the others as their formulas read, in eager PyTorch."""
    import torch

    if ON_GPU and not torch.cuda.is_available():
        return {}
    device = "cuda" if ON_GPU else "cpu"
    z = torch.tensor(logits).to(device, getattr(torch, dtype)).requires_grad_()
    y = torch.tensor(labels).to(device, torch.int64)
    q, _, num_classes = 1.32, *logits.shape
    weight = (q - 1) / 0.5

    def fit(p, q):
        p_y = torch.gather(p, 1, y[:, None])[:, 0].clamp(min=1e-6)
        return (1 - p_y**q) / q

    def gce():
        return fit(torch.softmax(z, 1), 0.7).mean()

    def dal():
        p = torch.softmax(z, 1)
        entropy = -(p * torch.log(p + 1e-6)).sum(1)
        return (fit(p, q) + weight * entropy / (q * np.log(num_classes))).mean()

    def ce():
        return torch.nn.functional.cross_entropy(z, y)

    def value_and_gradient(loss):
        def call():
            z.grad = None
            loss().backward()
            return torch.cuda.synchronize if ON_GPU else lambda: None

        return call

    formulas = {"ce": ce, "gce": gce, "dal": dal}
    return {f"torch {n}": value_and_gradient(loss) for n, loss in formulas.items()}


def show(table: dict[str, Any]) -> None:
    print(f"\n{table['shape']} {table['dtype']}, {table['rows'][0]['rounds']} rounds")
    print(
        f"{'':20}{'ms':>10}{'/optax':>8}{'quartiles':>14}{'CPU':>7}{'/copy':>8}"
        f"{'bandwidth':>11}{'temp/logits':>13}{'compile s':>11}"
    )
    for row in table["rows"]:
        low, high = row["to_optax_quartiles"]
        line = (
            f"{row['name']:20}{row['ms']:10.3f}{row['to_optax']:8.2f}"
            f"{f'{low:.2f}-{high:.2f}':>14}{row['to_optax_cpu']:7.2f}"
            f"{row['to_copy']:8.2f}{row['bandwidth']:11.0%}"
        )
        if "temporaries" in row:
            line += f"{row['temporaries']:13.2f}"
        if "compile_seconds" in row:
            line += f"{row['compile_seconds']:11.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
