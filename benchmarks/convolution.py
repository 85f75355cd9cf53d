"""Time of a small CNN's training step on the CPU, by convolution and by loop form.

    python benchmarks/convolution.py [--rounds=20] [--steps=4] [--cases=digits,cifar]

Every line is one way of running the same step (cross entropy, SGD with momentum),
interleaved in one process; the ratio is images per second over an eager PyTorch loop
over tensors in memory, where PyTorch is installed.

On a shared machine, keep the process on one core (``taskset --cpu-list 0``). Then the
times are the process's own CPU time, which other processes hardly affect.
"""

import argparse
import itertools
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from machine import CORES, clock

from dal_jax.models import Functional, create, functionalize, layers
from dal_jax.models import convolution as convolution_module

CASES = {"digits": (64, (8, 8, 1)), "cifar": (128, (32, 32, 3))}
LEARNING_RATE, MOMENTUM = 0.05, 0.9


def shifted_slices(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Shifted slices, concatenated, times one matrix; derivatives by JAX."""
    side, half = kernel.shape[0], kernel.shape[0] // 2
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
    patches = [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row, column in itertools.product(range(side), repeat=2)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


def derived(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """XLA's convolution with the derivatives that JAX gives it."""
    return convolution_module._correlate(images, kernel, stride)


CONVOLUTIONS = {
    "dal_jax": convolution_module.convolution,
    "shifted slices": shifted_slices,
    "XLA, derived": derived,
}


def train_step(network: Functional) -> Callable[[Any, Any], Any]:
    def loss(params, images, labels):
        logits, _ = network.apply(params, {}, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(state, batch):
        params, trace = state
        gradient = jax.grad(loss)(params, *batch)
        trace = jax.tree.map(lambda t, g: MOMENTUM * t + g, trace, gradient)
        params = jax.tree.map(lambda p, t: p - LEARNING_RATE * t, params, trace)
        return params, trace

    return step


def looped(form: str, step, batches, state, steps: int) -> Callable[[], None]:
    """Compiles ``steps`` steps in one of the three loop forms."""

    def take(i):
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, False), batches)

    if form == "single":
        single = jax.jit(lambda state, i: step(state, take(i)))
        indices = [jnp.int32(i) for i in range(steps)]

        def run():
            current = state
            for i in indices:
                current = single(current, i)
            jax.block_until_ready(current)

        return run

    def fori(count, state):
        return lax.fori_loop(0, count, lambda i, s: step(s, take(i)), state)

    def scan(count, state):
        del count
        return lax.scan(lambda s, i: (step(s, take(i)), None), state, jnp.arange(steps))

    compiled = jax.jit({"fori_loop": fori, "scan": scan}[form])
    return lambda: jax.block_until_ready(compiled(steps, state))


def torch_loop(batches, classes: int, steps: int) -> Callable[[], None] | None:
    """The same network, loss and optimizer as an eager PyTorch loop."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(CORES)
    images = torch.tensor(np.asarray(batches[0])).permute(0, 1, 4, 2, 3).contiguous()
    labels = torch.tensor(np.asarray(batches[1]), dtype=torch.long)
    nn = torch.nn
    side, channels = images.shape[-1], images.shape[2]
    model = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU()),
        nn.Linear(128, classes),
    )
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)

    def run():
        for i in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[i]), labels[i]).backward()
            optimizer.step()

    return run


def measure(case: str, convolutions, forms, steps: int, rounds: int) -> None:
    batch, shape = CASES[case]
    generator = np.random.default_rng(0)
    batches = (
        jnp.asarray(generator.normal(size=(steps, batch, *shape)), jnp.float32),
        jnp.asarray(generator.integers(0, 10, (steps, batch)), jnp.int32),
    )
    runs = {}
    torch_run = torch_loop(batches, 10, steps)
    if torch_run is not None:
        runs["PyTorch, eager"] = torch_run
    for name, form in itertools.product(convolutions, forms):
        layers.convolution = CONVOLUTIONS[name]
        network = functionalize(
            lambda rngs: create("cnn", image_shape=shape, num_classes=10, rngs=rngs)
        )
        params, _ = network.init(jax.random.key(0))
        state = (params, jax.tree.map(jnp.zeros_like, params))
        run = looped(form, train_step(network), batches, state, steps)
        run()
        runs[f"{name}, {form}"] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(rounds + 1), runs.items()):
        start = clock()
        run()
        times[name].append((clock() - start) / steps * 1e3)
    print(f"\n{case}: batch {batch}, images {shape}\n")
    print("| way | ms/step min | median | images/s over PyTorch: min | median |")
    print("|---|---|---|---|---|")
    best = {name: (min(t[1:]), np.median(t[1:])) for name, t in times.items()}
    reference = best.get("PyTorch, eager", (np.nan, np.nan))
    for name, (low, middle) in best.items():
        ratios = f"{reference[0] / low:.2f} | {reference[1] / middle:.2f}"
        print(f"| {name} | {low:.2f} | {middle:.2f} | {ratios} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cases", default="digits,cifar")
    parser.add_argument("--convolutions", default=",".join(CONVOLUTIONS))
    parser.add_argument("--forms", default="fori_loop,scan,single")
    flags = parser.parse_args()
    kind = "process CPU time" if CORES == 1 else "wall time"
    print(f"{platform.machine()}, {CORES} core(s), {kind}, ", end="")
    print(f"Python {platform.python_version()}, jax {jax.__version__}")
    # The comma in a name stays: names are split at commas without a space after.
    names = flags.convolutions.replace(", ", "\0").split(",")
    names = [name.replace("\0", ", ") for name in names]
    for case in flags.cases.split(","):
        measure(case, names, flags.forms.split(","), flags.steps, flags.rounds)


if __name__ == "__main__":
    main()
