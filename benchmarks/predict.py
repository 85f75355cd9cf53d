"""How fast ``dal-jax predict`` classifies image files, next to decoding them alone.

    python benchmarks/predict.py [--count=10000] [--side=256] [--size=8] [--rounds=5]

Makes JPEG images in a temporary directory and a run of the digits recipe's network that
takes images of ``--size``, then measures in turns, so that a noisy machine hits both
alike: the decoder, as the run decodes for itself, and the classifier, which decodes
ahead of the device. The ratio of the two speeds is the bar, by the clock and by the
processor's time.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from decoding import make_images
from machine import describe, markdown

import dal_jax
from dal_jax import training
from dal_jax.config import DatasetConfig, TrainConfig
from dal_jax.data.batches import readable
from dal_jax.data.form import FILES_AT_ONCE
from dal_jax.data.images import FileImages
from dal_jax.data.unlabelled import find


def seconds(batches: Iterator) -> tuple[float, float]:
    """Returns the time that all batches take, by the clock and of the processor."""
    begin = time.perf_counter(), time.process_time()
    for _ in batches:
        pass
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        images, workdir = Path(directory, "images"), Path(directory, "run")
        make_images(images, flags.count, flags.side)
        config = TrainConfig(
            dataset=DatasetConfig(image_size=flags.size, train_size=100, test_size=1),
            num_epochs=1,
        )
        training.train_and_evaluate(config, workdir)
        classifier = dal_jax.load(workdir)
        paths = find(images).inputs
        source = FileImages(1, flags.size, tuple(paths))
        shape = classifier.form.shape

        def decoder() -> Iterator:
            return readable(source, shape, FILES_AT_ONCE)

        # Compiles the programs, and reads the files into the system's cache.
        seconds(classifier.in_batches(paths))
        rounds = [
            (*seconds(decoder()), *seconds(classifier.in_batches(paths)))
            for _ in range(flags.rounds)
        ]
    print(markdown(describe()))
    print(f"\n{flags.count} JPEG images of {flags.side} x {flags.side} pixels\n")
    decoded, decoded_cpu, predicted, predicted_cpu = np.array(rounds).T
    for name, values in (
        ("decoder, images a second", flags.count / decoded),
        ("predict, images a second", flags.count / predicted),
        ("predict / decoder", decoded / predicted),
        ("the same, by processor time", decoded_cpu / predicted_cpu),
    ):
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        print(f"{name:30s} {median:8.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
