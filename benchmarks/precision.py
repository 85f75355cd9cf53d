"""What computing in bfloat16 does to accuracy, against float32, seed by seed.

    python benchmarks/precision.py [--config=digits] [--seeds=5]
        [--out=benchmarks/results/precision]

Runs of a recipe that differ in ``precision`` alone: convolutions and products are
in bfloat16, and parameters, batch statistics, logits and the loss stay float32.
Accuracy is on the clean test set after the last epoch. On a CPU the processor time says
nothing about a device that has bfloat16 units.
"""

import argparse
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
from cells import spread

from dal_jax import cli, recipe, training
from dal_jax.reporting.comparison_tables import markdown_table

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    arguments = parse()
    cli.use_compilation_cache()
    runs = []
    for seed in range(arguments.seeds):
        for precision in PRECISIONS:
            runs.append(run(arguments.config, seed, precision))
            print(runs[-1], file=sys.stderr, flush=True)
    described = machine.describe()
    text = f"{arguments.config}\n\n{table(runs)}\n\n{machine.markdown(described)}\n"
    print(text)
    if arguments.out:
        out = Path(f"{arguments.out}-{arguments.config}")
        result = {"machine": described, "runs": runs}
        out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="digits", choices=cli.recipe_files())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", help="PREFIX of a .json and a .md")
    return parser.parse_args()


def run(name: str, seed: int, precision: str) -> dict[str, Any]:
    config = runpy.run_path(str(cli.recipe_files()[name]))["get_config"]()
    config.seed, config.precision = seed, precision
    # The last epoch's evaluation is all that is read.
    config.eval_every, config.train_eval_size = config.num_epochs, 0
    began = time.process_time()
    objects = recipe.ingredients(config, recipe.prepare(config))
    last = training.fit(**objects).metrics[-1]
    return {
        "seed": seed,
        "precision": precision,
        "test_accuracy": last["test_accuracy"],
        "train_loss": last["train_loss"],
        "cpu_seconds": time.process_time() - began,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Returns a row a precision, and the difference from float32 seed by seed."""
    by_name = {p: [r for r in runs if r["precision"] == p] for p in PRECISIONS}
    accuracies = {
        p: np.array([r["test_accuracy"] for r in chosen])
        for p, chosen in by_name.items()
    }
    columns = ["precision", "test accuracy", "by seed", "minus float32"]
    columns += ["CPU seconds a run"]
    lines = []
    for precision, accuracy in accuracies.items():
        difference = accuracy - accuracies["float32"]
        seconds = np.median([r["cpu_seconds"] for r in by_name[precision]])
        cells = [precision, spread(accuracy.tolist())]
        cells += [", ".join(f"{a:.3f}" for a in accuracy), spread(difference.tolist())]
        lines.append([*cells, f"{seconds:.0f}"])
    return markdown_table(columns, lines)


if __name__ == "__main__":
    main()
