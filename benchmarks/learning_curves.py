"""Cross entropy and Dynamics-Aware Loss on the digits, epoch by epoch.

    python benchmarks/learning_curves.py --seeds=3

Trains `configs/digits.py` with both losses and writes what the pictures in the README
and in docs/method.md show to benchmarks/results/digits_curves.json: of each seed the
accuracy on clean test labels after every epoch, and of the wrong training labels the
shares that the network predicts (memorized) and corrects.
"""

import argparse
import json
import runpy
import sys
import tempfile
from pathlib import Path

import jax

from dal_jax import cli, training
from dal_jax.config import LossConfig

ROOT = Path(__file__).parents[1]
CURVES = ("test_accuracy", "memorized", "corrected")


def curves(loss: str, seed: int) -> dict[str, list[float]]:
    config = runpy.run_path(str(ROOT / "configs/digits.py"))["get_config"]()
    if loss != "dal":
        config.loss = LossConfig(loss)
    config.seed = seed
    with tempfile.TemporaryDirectory() as directory:
        training.train_and_evaluate(config, directory)
        lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {name: [round(entry[name], 4) for entry in entries] for name in CURVES}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="benchmarks/results/digits_curves.json")
    arguments = parser.parse_args()
    cli.use_compilation_cache()
    results = {
        "command": " ".join(["python benchmarks/learning_curves.py", *sys.argv[1:]]),
        "config": "configs/digits.py",
        "jax": jax.__version__,
        "seeds": arguments.seeds,
    }
    for loss in ("ce", "dal"):
        results[loss] = [curves(loss, seed) for seed in range(arguments.seeds)]
    Path(arguments.out).write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
