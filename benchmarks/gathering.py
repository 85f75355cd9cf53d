"""What it costs to gather what training shows of every example.

    python benchmarks/gathering.py [--rounds=15] [--cases=digits] [--out=PREFIX]

Two runs of the same training step, one that gathers and one that does not, train whole
epochs in turns on the same random images. The ratio is of processor time, which other
processes do not lengthen; the bar is 1.03.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import machine
import numpy as np

from dal_jax import data, noise, recipe
from dal_jax.config import AugmentationConfig, LossConfig, ModelConfig, TrainConfig
from dal_jax.training import experiment as experiments
from dal_jax.training.plan import Plan, make_plan
from dal_jax.training.state import TrainMetrics


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe's network and the size of its data."""

    examples: int
    image_shape: tuple[int, int, int]
    batch_size: int
    hidden: tuple[int, ...]
    flip: bool

    @property
    def config(self) -> TrainConfig:
        """The configuration, with 60 epochs as the recipes have."""
        return TrainConfig(
            loss=LossConfig("dal", per_epoch=False),
            model=ModelConfig(name="cnn", channels=(32, 64), hidden=self.hidden),
            augmentation=AugmentationConfig(flip=self.flip),
            num_epochs=60,
            batch_size=self.batch_size,
        )


CASES = {
    "digits": Case(1297, (8, 8, 1), 64, (), False),
    "cifar10_small": Case(5000, (16, 16, 3), 128, (128,), True),
}


class NothingGathered(Plan):
    """A plan whose step gathers nothing."""

    phases: Any = None


def make_epoch(plan: Plan) -> Callable[[], None]:
    """Returns a function that trains one epoch and waits for it."""
    experiment = experiments.build(plan)
    zero = experiment.parallel.place_data(TrainMetrics.zero())
    carry: Any = (experiment.init(), zero)
    order, steps = experiment.order(0), experiment.steps_per_epoch

    def epoch() -> None:
        nonlocal carry
        carry = experiment.run_train(experiment.context, carry, order, 0, steps)
        experiment.parallel.fetch(carry[1])

    return epoch


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Returns the processor seconds of every epoch of both."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (case.examples, *case.image_shape), np.uint8)
    labels = rng.integers(0, 10, case.examples)
    record = noise.apply("none", labels, num_classes=10, rate=0.0, seed=0)
    split = data.Split(images, labels, clean_labels=labels)
    prepared = recipe.Prepared(tuple("0123456789"), split, record, None, None)
    plan = make_plan(**recipe.ingredients(case.config, prepared))
    names = [field.name for field in dataclasses.fields(plan)]
    nothing = NothingGathered(**{name: getattr(plan, name) for name in names})
    runs = {
        "gathering": make_epoch(plan),
        "not gathering": make_epoch(nothing),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        # The order changes, so that neither always comes first; round 0 compiles.
        for name in sorted(runs, reverse=number % 2 == 1):
            began = process_time()
            runs[name]()
            if number:
                seconds[name].append(process_time() - began)
    return seconds


def line(name: str, seconds: dict[str, list[float]]) -> str:
    """Returns a case's row of the table."""
    ratios = np.divide(seconds["gathering"], seconds["not gathering"])
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    epoch = np.median(seconds["not gathering"])
    least = min(seconds["gathering"]) / min(seconds["not gathering"])
    return (
        f"| {name} | {epoch:.3f} | {median:.3f} ({low:.3f} to {high:.3f}) "
        f"| {least:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", help="write PREFIX.json and PREFIX.md")
    args = parser.parse_args()
    cases = args.cases.split(",")
    seconds = {name: measure(CASES[name], args.rounds) for name in cases}
    description = machine.describe()
    text = "\n".join(
        [
            "| | processor s an epoch | gathering / not, median and quartiles "
            "| of the fastest epochs |",
            "|---|---|---|---|",
            *(line(name, of) for name, of in seconds.items()),
            "",
            machine.markdown(description),
        ]
    )
    print(text)
    if args.out:
        result = {"machine": description, "seconds": seconds}
        Path(f"{args.out}.json").write_text(json.dumps(result, indent=1) + "\n")
        Path(f"{args.out}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
