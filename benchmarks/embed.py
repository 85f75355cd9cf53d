"""Embeds images, killed twice and gone on with, and compares with a run in one go.

    python benchmarks/embed.py --workdir=DIR [--count=5000] [--side=256]
        [--image_size=64] [--model=resnet18] [--kills=2]

Makes JPEG images and random weights in ``DIR``, then runs ``dal-jax embed`` to its end.
A second one is killed (``kill -9``) when it has done a third of the work, and again at
two thirds; then the same command finishes. It prints whether both pairs of files are
the same, and what each process took.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
from decoding import make_images
from machine import describe, markdown

from dal_jax import models

ROOT = Path(__file__).parents[1]


def start(flags: argparse.Namespace, out: Path) -> subprocess.Popen:
    arguments = {
        "model": flags.model,
        "weights": flags.workdir / "random.safetensors",
        "inputs": flags.workdir / "images",
        "out": out,
        "image_size": flags.image_size,
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "dal_jax", "embed"),
            *(f"--{name}={value}" for name, value in arguments.items()),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def end(process: subprocess.Popen) -> str:
    began = time.perf_counter()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return (
        f"status {process.returncode}, {time.perf_counter() - began:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of the processor, "
        f"{used.ru_maxrss / 1e6:.2f} GB"
    )


def blocks_done(out: Path) -> int:
    records = out.with_name(f"{out.name}.partial").glob("done-*")
    return sum(len(file.read_text().split("\n")) - 1 for file in records)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    for name, default in (("count", 5000), ("side", 256), ("image_size", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--kills", type=int, default=2)
    flags = parser.parse_args()
    print(markdown(describe()), "\n")
    flags.workdir.mkdir(parents=True, exist_ok=True)
    make_images(flags.workdir / "images", flags.count, flags.side)
    network = models.create(
        flags.model,
        image_shape=(flags.image_size, flags.image_size, 3),
        num_classes=10,
        small_images=False,
        rngs=jax.random.key(0),
    )
    models.save_weights(network, flags.workdir / "random.safetensors")
    whole, stopped = flags.workdir / "whole.npy", flags.workdir / "stopped.npy"
    print("in one go:", end(start(flags, whole)), flush=True)
    blocks = -(-flags.count // 64)
    for kill in range(1, flags.kills + 1):
        process = start(flags, stopped)
        while process.poll() is None and (
            blocks_done(stopped) < blocks * kill // (flags.kills + 1)
        ):
            time.sleep(0.2)
        done = blocks_done(stopped)
        process.send_signal(signal.SIGKILL)
        print(f"killed with {done} of {blocks} blocks done:", end(process), flush=True)
    print("at last:", end(start(flags, stopped)), flush=True)
    for ending in (".npy", ".csv"):
        same = (
            whole.with_suffix(ending).read_bytes()
            == stopped.with_suffix(ending).read_bytes()
        )
        print(f"{ending}: {'the same' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
