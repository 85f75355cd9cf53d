"""Trains on 1, 2, 4 and 8 devices in every mode; the results must be equal.

    python benchmarks/devices.py [--cases=cnn]
                                 [--markdown=benchmarks/results/devices.md]

Every number of devices runs in its own process (XLA presents one processor as several
devices). The last row is two processes with two devices each that connect on localhost.
Equal means equal up to the order in which float32 numbers are summed.
The table has the loss of the last epoch and the largest difference of any parameter
from one device, relative to the largest parameter. The exit status is 1 if one of them
is larger than --tolerance.
"""

import argparse
import copy
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dal_jax.config import AugmentationConfig, DatasetConfig, ModelConfig, TrainConfig

ROOT = Path(__file__).parents[1]
PATIENCE = 900.0
# Each way to run: the mode and how many devices share the classes.
WAYS = {"jit": ("jit", 1), "pmap": ("pmap", 1), "jit, classes shared by 2": ("jit", 2)}


def _small(loss: str, model: ModelConfig, epochs: int) -> TrainConfig:
    config = TrainConfig(
        dataset=DatasetConfig(train_size=240, test_size=100),
        model=model,
        augmentation=AugmentationConfig(flip=True),
        num_epochs=epochs,
        batch_size=32,
        checkpoint_every=1,
    )
    config.loss.name = loss
    return config


def _two_steps(model: ModelConfig) -> TrainConfig:
    # Batch norm over images of one pixel makes differences grow tenfold a step.
    config = _small("dal", model, 1)
    config.dataset.train_size = 64
    config.optimizer.learning_rate = 0.01
    return config


def _streamed(epochs: int) -> TrainConfig:
    config = _small("dal", ModelConfig("mlp", hidden=(32,)), epochs)
    config.dataset.name, config.dataset.storage = "folder", "stream"
    config.dataset.workers = 0
    return config


def write_images(directory: Path) -> None:
    """Writes a few of the digits as files, for the cases that stream them."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    for i, (image, label) in enumerate(zip(pixels[:340], digits.target, strict=False)):
        path = directory / ("train" if i < 240 else "test") / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


CASES: dict[str, Callable[[], TrainConfig]] = {
    "cnn": lambda: TrainConfig(num_epochs=3),
    "small cnn": lambda: _small("dal", ModelConfig("cnn", (8, 16), (32,)), 2),
    "resnet18": lambda: _two_steps(ModelConfig("resnet18")),
    "long": lambda: _small("dal", ModelConfig("cnn", (8, 16), (32,)), 20),
    "elr": lambda: _small("elr", ModelConfig("mlp", hidden=(32,)), 2),
    "streamed": lambda: _streamed(2),
    "streamed long": lambda: _streamed(20),
    "nlnl": lambda: _small("nlnl", ModelConfig("mlp", hidden=(32,)), 2),
}


class End(NamedTuple):
    """What a run ended with."""

    metrics: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


def start(
    out: Path,
    cases: Sequence[str],
    ways: Sequence[str],
    devices: int,
    arguments: Sequence[str] = (),
) -> subprocess.Popen:
    """Starts a process with so many devices that trains every case in every way."""
    images = out.parent / "images"
    if not images.exists():
        write_images(images)
    flags = f"--xla_force_host_platform_device_count={devices}"
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [
            sys.executable,
            __file__,
            f"--train={out}",
            f"--images={images}",
            f"--cases={'|'.join(cases)}",
            f"--ways={'|'.join(ways)}",
            *arguments,
        ],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "PYTHONPATH": os.pathsep.join(paths),
        },
    )


def finish(*processes: subprocess.Popen) -> None:
    """Waits for processes and demands that all went well."""
    statuses = [process.wait(PATIENCE) for process in processes]
    if any(statuses):
        raise SystemExit(f"training ended with exit status {statuses}")


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_two(
    out: Path, cases: Sequence[str], ways: Sequence[str]
) -> list[subprocess.Popen]:
    """Starts two processes with two devices each, whose clocks do not agree."""
    coordinator = f"--coordinator=localhost:{free_port()}"
    # To the first process every call of the step seems short, to the second none.
    return [
        start(
            out,
            cases,
            ways,
            2,
            [coordinator, f"--process_id={i}", f"--call_seconds={seconds}"],
        )
        for i, seconds in enumerate((1e9, 0.0))
    ]


def read(workdir: Path) -> End:
    """Returns a finished run's metrics and the arrays of its newest checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    with ocp.StandardCheckpointer() as checkpointer:
        path = (workdir / "checkpoints" / str(max(steps)) / "arrays").absolute()
        shapes = checkpointer.metadata(path).item_metadata
        # However many devices wrote them, they are read onto one.
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        tree = checkpointer.restore(
            path,
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one),
                shapes.tree,
            ),
        )
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    untimed = [{k: v for k, v in e.items() if "second" not in k} for e in entries]
    return End(untimed, arrays)


def largest_difference(end: End, reference: End) -> float:
    """Returns the largest difference of a parameter, relative to the largest one."""
    pairs = _parameters(end, reference)
    scale = max(np.abs(expected).max() for _, expected in pairs)
    return float(max(np.abs(x - expected).max() for x, expected in pairs) / scale)


def share_differing(end: End, reference: End) -> float:
    """Returns the share of the parameters that differ in any bit."""
    pairs = _parameters(end, reference)
    differing = sum((x != expected).sum() for x, expected in pairs)
    return float(differing / sum(x.size for x, _ in pairs))


def _parameters(end: End, reference: End) -> list[tuple[np.ndarray, np.ndarray]]:
    names = [name for name in reference.arrays if "params" in name]
    if not names or end.arrays.keys() != reference.arrays.keys():
        raise SystemExit("two runs do not hold the same arrays")
    return [(end.arrays[name], reference.arrays[name]) for name in names]


def train(options: argparse.Namespace) -> None:
    """In a process of its own: trains every case in every way."""
    from dal_jax import cli
    from dal_jax.training import feed, processes, train_and_evaluate

    if options.call_seconds is not None:
        feed._CALL_SECONDS = options.call_seconds
    cli.quiet()
    if options.coordinator is None:
        # Of two processes one would find its program and wait for the other to compile,
        # which XLA's collectives on the CPU do for 30 s and no longer.
        cli.use_compilation_cache()
    processes.initialize(
        automatic=False,
        coordinator=options.coordinator,
        num_processes=None if options.coordinator is None else 2,
        process_id=options.process_id,
    )
    for case in options.cases.split("|"):
        for way in options.ways.split("|"):
            config = copy.deepcopy(CASES[case]())
            config.parallel, config.model_devices = WAYS[way]
            if config.dataset.name == "folder":
                config.dataset.train_path = str(options.images / "train")
                config.dataset.test_path = str(options.images / "test")
            train_and_evaluate(config, options.train / f"{case}, {way}")


def compare(options: argparse.Namespace) -> None:
    """Trains everything and prints a table for each case."""
    base = options.workdir or Path(tempfile.mkdtemp(prefix="dal_jax_devices_"))
    cases = options.cases.split("|")
    for devices in (1, 2, 4, 8):
        ways = [way for way, (_, shared) in WAYS.items() if devices % shared == 0]
        finish(start(base / str(devices), cases, ways, devices))
    finish(*start_two(base / "two", cases, ["jit", "pmap"]))
    report, worst = tables(base, cases)
    print(report)
    if options.markdown:
        options.markdown.write_text(report + "\n")
    raise SystemExit(int(worst > options.tolerance))


def tables(base: Path, cases: Sequence[str]) -> tuple[str, float]:
    """Returns the report on finished runs and the largest difference in it."""
    import machine

    lines = ["# Devices and processes", "", machine.markdown(machine.describe()), ""]
    places = [(str(n), str(n)) for n in (1, 2, 4, 8)] + [("2 processes x 2", "two")]
    worst = 0.0
    for case in cases:
        reference = read(base / "1" / f"{case}, jit")
        lines += [
            f"## {case}, {reference.metrics[-1]['step']} steps",
            "",
            "| devices | loss of the last epoch | test accuracy "
            "| parameters that differ in any bit | largest difference |",
            "|---|---|---|---|---|",
        ]
        for (name, place), way in itertools.product(places, WAYS):
            workdir = base / place / f"{case}, {way}"
            if workdir.exists():
                end = read(workdir)
                last = end.metrics[-1]
                difference = largest_difference(end, reference)
                worst = max(worst, difference)
                lines.append(
                    f"| {name}, {way} | {last['train_loss']:.9f} "
                    f"| {last['test_accuracy']:.3f} "
                    f"| {100 * share_differing(end, reference):.0f} % "
                    f"| {difference:.1e} |"
                )
        lines.append("")
    return "\n".join(lines), worst


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="cnn", help=f"of {', '.join(CASES)}, by |")
    parser.add_argument("--markdown", type=Path, help="also write the report there")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--workdir", type=Path)
    # Of the processes that this one starts.
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ways", default="jit", help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--process_id", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--call_seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    compare(options) if options.train is None else train(options)


if __name__ == "__main__":
    main()
