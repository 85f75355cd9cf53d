"""How fast a folder of JPEG images streams, next to what Pillow alone decodes.

    python benchmarks/decoding.py [--count=10000] [--side=256] [--workers=0]

Makes the images in a temporary directory, then measures in turns, so that a noisy
machine hits all alike: Pillow in a plain loop on one core; the same loop in one process
a core, all at once; and ``batches.stream``, over as many images. Two ratios of images
per second are printed: the stream's over that of the processes, which is what Pillow
alone can do here, and over that of one core times the cores, which asks more where
cores share their execution units or have other work.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import batches

BATCH = 32
PREFETCH = 2


def make_images(directory: Path, count: int, side: int):
    """Writes smooth random pictures of about the bytes per pixel of photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, [side // 8, side // 8, 3], dtype=np.uint8)
        path = directory / f"class{number % 2}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((side, side)).save(path, quality=90)


def seconds_of_pillow(paths: tuple[str, ...]) -> float:
    start = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return time.perf_counter() - start


def speed_of_stream(stream: Iterator[np.ndarray], steps: int, ahead: int) -> float:
    """Returns images per second, not counting batches decoded before it is called."""
    for _ in range(ahead):
        next(stream)
    start = time.perf_counter()
    for _ in range(steps - ahead):
        next(stream)
    return (steps - ahead) * BATCH / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=10)
    flags = parser.parse_args()
    cores = len(os.sched_getaffinity(0))

    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as directory,
        concurrent.futures.ProcessPoolExecutor(cores, spawn) as pool,
    ):
        make_images(Path(directory), flags.count, flags.side)
        config = DatasetConfig(
            name="folder", train_path=directory, storage="stream", cache_dir=""
        )
        start = time.perf_counter()
        split = data.load(config).train
        checked = flags.count / (time.perf_counter() - start)
        paths = split.images.paths  # pyright: ignore[reportAttributeAccessIssue]
        steps = flags.count // BATCH
        order = np.random.default_rng(0).permutation(flags.count)[: steps * BATCH]
        rounds = np.array_split(order.reshape(steps, BATCH), flags.rounds)
        stream = batches.stream(
            split, order.reshape(steps, BATCH), workers=flags.workers, prefetch=PREFETCH
        )
        # What is decoded and in the making when a turn begins, in both kinds.
        ahead = 3 * PREFETCH * flags.workers or (PREFETCH + 1) * cores
        list(pool.map(seconds_of_pillow, [paths[:BATCH]] * 2 * cores))

        speeds = []
        for chosen in rounds:
            shares = np.array_split(chosen.ravel(), cores)
            shares = [tuple(paths[i] for i in share) for share in shares]
            one = len(shares[0]) / seconds_of_pillow(shares[0])
            start = time.perf_counter()
            list(pool.map(seconds_of_pillow, shares))
            processes = chosen.size / (time.perf_counter() - start)
            streamed = speed_of_stream(stream, len(chosen), ahead)
            ratios = (streamed / processes, streamed / (one * cores))
            speeds.append((one, processes, streamed, *ratios))

    one, processes, streamed, ratio, ideal_ratio = (
        statistics.median(column) for column in zip(*speeds, strict=True)
    )
    print(f"{flags.count} JPEG images of {flags.side} x {flags.side}, {cores} cores")
    print(f"Pillow, one core:            {one:6.0f} images/s")
    print(f"Pillow, {cores} processes:         {processes:6.0f} images/s")
    print(f"check at load:               {checked:6.0f} images/s")
    print(f"stream, workers={flags.workers}:           {streamed:6.0f} images/s")
    print(f"medians of {flags.rounds} rounds:")
    print(f"stream / Pillow in {cores} processes:  {ratio:.2f}")
    print(f"stream / ({cores} x Pillow, one core): {ideal_ratio:.2f}")


if __name__ == "__main__":
    main()
