"""The README's comparison against the same runs by train.py, one after the other.

    python benchmarks/comparing.py --workdir=DIR [--seeds=5] [--rates=0.2,0.4,0.6,0.8]
        [--losses=ce,gce,mae,dal] [overrides, as --config.num_epochs=2]

Both begin with the same empty cache of compiled programs, ``dal-jax compare`` first.
Prints a table: seconds by the clock, their ratio, and by how much the test accuracies
of the two differ (a comparison's runs have one core each, so sums are rounded in
another order). ``DIR`` must not exist.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import describe, markdown

ROOT = Path(__file__).parents[1]


def seconds(arguments: list[str], cache: Path) -> float:
    """Runs a command of this package and returns its seconds by the clock."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", default="0.2,0.4,0.6,0.8")
    parser.add_argument("--losses", default="ce,gce,mae,dal")
    flags, overrides = parser.parse_known_args()
    workdir = flags.workdir.absolute()
    workdir.mkdir(parents=True)
    rates, losses = flags.rates.split(","), flags.losses.split(",")
    together = seconds(
        [
            *("-m", "dal_jax", "compare", "--config=digits"),
            f"--losses={flags.losses}",
            f"--noises={','.join(f'symmetric:{rate}' for rate in rates)}",
            f"--seeds={flags.seeds}",
            f"--workdir={workdir / 'study'}",
            *overrides,
        ],
        workdir / "cache",
    )
    singles, accuracy = [], {}
    for seed, rate, loss in itertools.product(range(flags.seeds), rates, losses):
        single = workdir / "one" / f"{loss}-{rate}-{seed}"
        arguments = [
            *("train.py", "--config=configs/digits.py"),
            f"--config.loss.name={loss}",
            *("--config.noise.kind=symmetric", f"--config.noise.rate={rate}"),
            f"--config.seed={seed}",
            f"--workdir={single}",
            *overrides,
        ]
        singles.append(seconds(arguments, workdir / "cache"))
        summary = json.loads((single / "summary.json").read_text())
        accuracy[loss, f"symmetric-{rate}", str(seed)] = summary["test_accuracy_last"]
    with (workdir / "study" / "results.csv").open() as file:
        differences = [
            abs(float(row["test_accuracy_last"]) - accuracy[name])
            for row in csv.DictReader(file)
            if (name := (row["loss"], row["noise"], row["seed"])) in accuracy
        ]
    assert len(differences) == len(singles)
    quartiles = ", ".join(f"{q:.1f}" for q in statistics.quantiles(singles, n=4))
    print(markdown(describe()), "\n")
    print("| what | figure |\n|---|---|")
    print(f"| `dal-jax compare`, {len(singles)} runs | {together:.0f} s |")
    print(f"| `train.py`, one after the other | {sum(singles):.0f} s |")
    print(f"| ratio | {together / sum(singles):.2f} |")
    print(f"| quartiles of a single run | {quartiles} s |")
    print(f"| same accuracy to the last digit | {differences.count(0)} |")
    print(f"| largest difference | {max(differences):.3f} |")


if __name__ == "__main__":
    main()
