"""How fast a folder of JPEG images streams, compared with Pillow alone.

    python benchmarks/decoding.py [--count=10000] [--side=256] [--workers=N]

It makes the images in a temporary directory and then measures three ways in turn, so
that a noisy machine affects all of them: Pillow in a plain loop in one process, with
the other cores idle; the same loop in one process per core, all at once; and
``batches.stream``. Every round gives two ratios: the stream's images per second over
those of one process times the cores, which is the target, and over those of all the
processes, which shows what the machine loses when all its cores decode.

Every round starts new processes for Pillow, because the position of its buffers makes
libjpeg up to 1.4 times as fast in one process as in another.
"""

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 32
PREFETCH = 2
STEPS = 60  # of a stream in a round
SETTLE = 0.3  # seconds until a stream that nobody reads has decoded all it may


def make_images(directory: Path, count: int, side: int):
    """Writes smooth random pictures of about the bytes per pixel of photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, [side // 8, side // 8, 3], dtype=np.uint8)
        path = directory / f"class{number % 2}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((side, side)).save(path, quality=90)


def decode_with_pillow(paths: Sequence[str]):
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))


def speed_of_pillow(processes: list[ProcessPoolExecutor], paths: list[str]) -> float:
    """Returns images per second of a plain loop over an equal share in each process."""
    share = len(paths) // len(processes)
    shares = [paths[i * share :][:share] for i in range(len(processes))]
    for process in processes:
        process.submit(decode_with_pillow, paths[:BATCH]).result()
    time.sleep(SETTLE)
    start = time.perf_counter()
    pairs = zip(processes, shares, strict=True)
    tasks = [process.submit(decode_with_pillow, share) for process, share in pairs]
    for task in tasks:
        task.result()
    return share * len(processes) / (time.perf_counter() - start)


def speed_of_stream(stream: Iterator[np.ndarray], ahead: int) -> float:
    """Returns images per second, not counting the batches decoded before the turn."""
    next(stream)
    time.sleep(SETTLE)
    for _ in range(ahead):
        next(stream)
    start = time.perf_counter()
    for _ in range(STEPS):
        next(stream)
    return STEPS * BATCH / (time.perf_counter() - start)


def report(name: str, values: np.ndarray, digits: int):
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    print(f"{name:36s} {median:7.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")


def main():
    # Pillow's processes import this file and need none of these.
    from dal_jax import data
    from dal_jax.config import DatasetConfig
    from dal_jax.data import batches

    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    flags = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ahead = PREFETCH * (flags.workers or cores)
    spawn = multiprocessing.get_context("spawn")
    rng = np.random.default_rng(0)

    with tempfile.TemporaryDirectory() as directory:
        make_images(Path(directory), flags.count, flags.side)
        config = DatasetConfig(
            name="folder", train_path=directory, storage="stream", cache_dir=""
        )
        start = time.perf_counter()
        split = data.load(config).train
        checked = flags.count / (time.perf_counter() - start)
        paths = split.inputs.paths  # pyright: ignore[reportAttributeAccessIssue]

        speeds, loads = [], []
        for _ in range(flags.rounds):
            loads.append(os.getloadavg()[0])
            # Long enough for the stream to be decoding ahead until the clock stops.
            order = np.resize(
                rng.permutation(flags.count), (1 + 2 * ahead + STEPS, BATCH)
            )
            of_round = [paths[i] for i in order[:STEPS].ravel()]
            with contextlib.ExitStack() as stack:
                processes = [
                    stack.enter_context(ProcessPoolExecutor(1, spawn))
                    for _ in range(cores)
                ]
                one = speed_of_pillow(processes[:1], of_round[: STEPS * BATCH // cores])
                every = speed_of_pillow(processes, of_round)
            stream = batches.stream(
                split, order, workers=flags.workers, prefetch=PREFETCH
            )
            with contextlib.closing(stream):
                speeds.append((one, every, speed_of_stream(stream, ahead)))

    one, every, streamed = np.array(speeds).T
    way = "default" if flags.workers is None else f"workers={flags.workers}"
    print(
        f"{flags.count} JPEG images of {flags.side} x {flags.side}, {cores} cores, "
        f"load {min(loads):.1f} to {max(loads):.1f}\nimages a second, medians of "
        f"{flags.rounds} rounds (quartiles); check at load {checked:.0f}"
    )
    report("Pillow, one process", one, 0)
    report(f"Pillow, {cores} processes", every, 0)
    report(f"stream, {way}", streamed, 0)
    report(f"stream / ({cores} x Pillow, one process)", streamed / one / cores, 2)
    report(f"stream / Pillow, {cores} processes", streamed / every, 2)
    report(f"Pillow, {cores} processes / {cores} x one", every / one / cores, 2)


if __name__ == "__main__":
    main()
