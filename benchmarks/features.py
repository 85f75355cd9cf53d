"""Trains on a million feature vectors of which 40 % are labelled wrong, and audits.

    python benchmarks/features.py --workdir=DIR [--count=1000000] [--features=512]
        [--classes=100] [--rate=0.4] [--losses=dal,ce] [--distance=0.15] [--seed=0]

Makes features in ``DIR``, a mean a class plus normal noise of deviation 1, and a
twentieth as many for testing. Then it runs ``dal-jax train --config=features`` with
each loss and ``dal-jax audit``, each as a process of its own, and prints seconds by the
clock, the processor's seconds, the peak memory and what was reached. ``--distance`` is
the deviation of the means' features: at 0.15 the classes overlap, so that whoever knew
the means would still be wrong in a fifth of the test examples; that accuracy is printed
too. Files that are there are taken as they are; delete the directory afterwards.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import describe, markdown

ROOT = Path(__file__).parents[1]
_BLOCK = 2**16


def make_features(directory: Path, flags: argparse.Namespace) -> None:
    """Writes features, given and clean labels of a training and a test set."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(flags.seed)
    means = rng.normal(size=(flags.classes, flags.features)).astype(np.float32)
    means *= flags.distance / np.sqrt(np.square(means).mean(axis=1, keepdims=True))
    np.save(directory / "means.npy", means)
    for name, count in (("train", flags.count), ("test", flags.count // 20)):
        path = directory / f"{name}_inputs.npy"
        clean = rng.integers(0, flags.classes, count).astype(np.int32)
        wrong = rng.random(count) < flags.rate * (name == "train")
        moved = rng.integers(1, flags.classes, count)
        labels = np.where(wrong, (clean + moved) % flags.classes, clean)
        np.save(directory / f"{name}_labels.npy", labels.astype(np.int32))
        np.save(directory / f"{name}_clean_labels.npy", clean)
        shape = (count, flags.features)
        out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for first in range(0, count, _BLOCK):
            rows = clean[first : first + _BLOCK]
            noise = rng.standard_normal((len(rows), flags.features), np.float32)
            out[first : first + len(rows)] = means[rows] + noise
        out.flush()


def prepare(directory: Path, flags: argparse.Namespace) -> None:
    """Makes the features where there are none, and prints what their means would reach.

    In a process of its own: a process counts its parent's memory as its own peak.
    """
    began = time.perf_counter(), time.process_time()
    if not (directory / "test_inputs.npy").exists():
        make_features(directory, flags)
    spent = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"by the true means: test accuracy {best_accuracy(directory):.3f}\n")
    print("| step | seconds | processor's | peak GB | test accuracy | AUROC |")
    print("|---|---|---|---|---|---|", flush=True)
    row("make the data", *spent)


def row(step: str, *figures: float) -> None:
    """Prints seconds, processor seconds, GB, accuracy and AUROC, as far as given."""
    cells = [
        f"{x:.{digits}f}" for x, digits in zip(figures, (1, 1, 2, 3, 3), strict=False)
    ]
    print("|", " | ".join([step, *cells, *[""] * (5 - len(cells))]), "|", flush=True)


def best_accuracy(directory: Path) -> float:
    """Returns the test accuracy of the nearest mean, which nothing exceeds for long."""
    means = np.load(directory / "means.npy")
    inputs = np.load(directory / "test_inputs.npy", "r")
    nearest = (inputs @ means.T - np.square(means).sum(axis=1) / 2).argmax(axis=1)
    return float((nearest == np.load(directory / "test_labels.npy")).mean())


def measured(arguments: list[str]) -> tuple[float, float, float]:
    """Runs a command; returns seconds, processor seconds and peak memory in GB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dal_jax", *arguments], env=environment
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"dal-jax {arguments[0]} ended with status {status}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    for name, default in (
        ("count", 1_000_000),
        ("features", 512),
        ("classes", 100),
        ("rate", 0.4),
        ("distance", 0.15),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--losses", default="dal,ce")
    flags, overrides = parser.parse_known_args()
    print(markdown(describe()), "\n", flush=True)
    maker = multiprocessing.get_context("spawn").Process(
        target=prepare, args=(flags.workdir, flags)
    )
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("the features could not be made")
    for loss in flags.losses.split(","):
        workdir = flags.workdir / loss
        used = measured(
            [
                "train",
                "--config=features",
                f"--config.dataset.train_path={flags.workdir}/train_inputs.npy",
                f"--config.dataset.test_path={flags.workdir}/test_inputs.npy",
                f"--config.loss.name={loss}",
                *(["--config.loss.q_start=None"] if loss != "dal" else []),
                f"--workdir={workdir}",
                *overrides,
            ]
        )
        summary = json.loads((workdir / "summary.json").read_text())
        row(f"train, {loss}", *used, summary["test_accuracy_last"])
        used = measured(["audit", f"--workdir={workdir}"])
        figures = json.loads((workdir / "audit.json").read_text())
        row(f"audit, {loss}", *used, summary["test_accuracy_last"], figures["auroc"])


if __name__ == "__main__":
    main()
