"""Training speed, compared with the device's peak and with PyTorch in one run.

    python benchmarks/training.py [--cases=digits,cnn,resnet18] [--rounds=7]
        [--batch_sizes=128,512] [--precisions=float32,bfloat16] [--workers=0,2]
        [--examples=N] [--out=PREFIX]

Each contestant trains whole epochs on the same random images; their epochs take turns,
round after round. ``dal_jax`` is what ``train.py`` runs. PyTorch, where it is
installed, runs a plain eager loop with a DataLoader (``workers``), the same loop on
batches made beforehand (``no loading``: the step alone), and on a GPU compiled,
channels-last, in bfloat16. Ratios are of images per second, round by round: median,
smallest, largest. The device's peak is that of a large matrix product in the same
process.

On a shared machine, ``taskset --cpu-list 0 python benchmarks/...`` keeps to one core;
times are then the process's own CPU time, which other processes do not lengthen.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
from jax_loop import Case, Trained, flops_per_image
from machine import CORES, clock

ON_GPU = jax.default_backend() == "gpu"
OURS = "dal_jax"


# Examples an epoch: long enough to be timed, and a multiple of the batch size.
CASES = {
    "digits": Case("cnn", (8, 8, 1), 64, 1280),
    "cnn": Case("cnn", (32, 32, 3), 128, 50_000 if ON_GPU else 1280, True, 4),
    "resnet18": Case(
        "resnet18",
        (32, 32, 3),
        *((128, 50_000) if ON_GPU else (32, 64)),
        flip=True,
        crop_padding=4,
    ),
}


def matrix_peak(precision: str, repetitions: int = 20) -> float:
    """Returns the operations a second of a large matrix product, at its fastest."""
    size = 8192 if ON_GPU else 1024
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(precision))
    multiply = jax.jit(lambda x: x @ x * (1 / size**0.5))
    times = []
    for _ in range(repetitions):
        began = clock()
        multiply(x).block_until_ready()
        times.append(clock() - began)
    return 2.0 * size**3 / min(times)


def torch_epochs(
    case: Case, images: np.ndarray, labels: np.ndarray, workers: Sequence[int]
) -> dict[str, Callable[[], None]]:
    """Returns the PyTorch programs by name; none where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch
    import torch_loop

    torch.set_num_threads(CORES)
    fields = {field.name for field in dataclasses.fields(torch_loop.Recipe)}
    recipe = torch_loop.Recipe(
        **{k: v for k, v in dataclasses.asdict(case).items() if k in fields}
    )
    ways = {f"PyTorch, {n} workers": torch_loop.Way(workers=n) for n in workers}
    ways["PyTorch, no loading"] = torch_loop.Way(workers=None)
    if torch_loop.available_device().type == "cuda":
        best = torch_loop.Way(
            workers=max(workers), compiled=True, channels_last=True, bfloat16=True
        )
        ways["PyTorch compiled"] = best
        ways["PyTorch compiled, no loading"] = dataclasses.replace(best, workers=None)
    return {
        name: torch_loop.make_epoch(recipe, way, images, labels)
        for name, way in ways.items()
    }


def measure(
    case: Case, precisions: Sequence[str], workers: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Returns the seconds of every contestant in every round, and what they mean."""
    generator = np.random.default_rng(0)
    size = (case.examples, *case.image_shape)
    images = generator.integers(0, 256, size, np.uint8)
    labels = generator.integers(0, 10, case.examples).astype(np.int32)
    ours = {
        f"{OURS}, {precision}": Trained(case, precision, images, labels)
        for precision in precisions
    }
    runs = {name: trained.epoch for name, trained in ours.items()}
    runs |= torch_epochs(case, images, labels, workers)
    seconds = _take_turns(runs, rounds)
    peaks = {precision: matrix_peak(precision) for precision in precisions}
    flops = flops_per_image(case)
    details = {}
    for precision, (name, trained) in zip(precisions, ours.items(), strict=True):
        speed = case.examples / min(seconds[name])
        host = trained.host_seconds_per_step()
        details[name] = {
            "share_of_peak": speed * flops / peaks[precision],
            "compile_seconds": trained.compile_seconds,
            "host_microseconds_per_step": 1e6 * host,
            "host_share_of_step": host * trained.steps / min(seconds[name]),
        }
    return {
        "case": dataclasses.asdict(case),
        "gigaflops_per_image": flops / 1e9,
        "peak_teraflops": {p: peak / 1e12 for p, peak in peaks.items()},
        "seconds": seconds,
        "details": details,
    }


def format_result(result: dict[str, Any]) -> str:
    """Returns a case's measurement as a markdown table."""
    case, seconds = result["case"], result["seconds"]
    peaks = ", ".join(f"{v:.3g} ({k})" for k, v in result["peak_teraflops"].items())
    ours = [name for name in seconds if name.startswith(OURS)]
    columns = ["", "images/s", *(f"{name} over it" for name in ours)]
    columns += ["share of peak", "compile, s", "host, us a step", "host share"]
    lines = [
        f"{case['model']}, images {tuple(case['image_shape'])}, batch "
        f"{case['batch_size']}, {case['examples']} images an epoch; "
        f"{result['gigaflops_per_image']:.3g} GFLOP an image and step; "
        f"matrix peak {peaks} TFLOP/s",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name in seconds:
        ratios = [_ratio(seconds[name], seconds[other]) for other in ours]
        detail = result["details"].get(name)
        cells = [""] * 4
        if detail:
            cells = [
                f"{100 * detail['share_of_peak']:.1f} %",
                f"{detail['compile_seconds']:.1f}",
                f"{detail['host_microseconds_per_step']:.0f}",
                f"{100 * detail['host_share_of_step']:.2f} %",
            ]
        speed = f"{case['examples'] / min(seconds[name]):.0f}"
        lines.append(f"| {' | '.join([name, speed, *ratios, *cells])} |")
    return "\n".join(lines)


def _take_turns(
    runs: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    # The first round warms up: compilation, worker processes, memory.
    for number, (name, run) in itertools.product(range(rounds + 1), runs.items()):
        began = clock()
        run()
        if number:
            seconds[name].append(clock() - began)
    return seconds


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    ratios = np.array(theirs) / np.array(ours)
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def write(prefix: str, results: dict[str, Any], text: str) -> None:
    """Writes ``PREFIX.json`` and ``PREFIX.md``."""
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.json").write_text(json.dumps(results, indent=2) + "\n")
    Path(f"{prefix}.md").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--batch_sizes", default="", help="default: the case's own")
    precisions = "float32,bfloat16" if ON_GPU else "float32"
    parser.add_argument("--precisions", default=precisions)
    parser.add_argument("--workers", default="0,8" if ON_GPU else "0")
    parser.add_argument("--examples", type=int, help="an epoch; default: the case's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="write PREFIX.json and PREFIX.md")
    args = parser.parse_args()
    description = machine.describe()
    results: dict[str, Any] = {"machine": description, "cases": []}
    texts = []
    for name in args.cases.split(","):
        for batch_size in args.batch_sizes.split(","):
            case = CASES[name]
            if batch_size:
                case = dataclasses.replace(case, batch_size=int(batch_size))
            if args.examples:
                case = dataclasses.replace(case, examples=args.examples)
            workers = [int(n) for n in args.workers.split(",")]
            result = measure(case, args.precisions.split(","), workers, args.rounds)
            results["cases"].append(result)
            texts.append(format_result(result))
            print(texts[-1], end="\n\n", flush=True)
    texts.append(machine.markdown(description))
    print(texts[-1])
    if args.out:
        write(args.out, results, "\n\n".join(texts))


if __name__ == "__main__":
    main()
