r"""Unequal classes, several annotators, mixup and erasing on digits: one table each.

    python benchmarks/data_as_it_is.py --workdir=runs/data_as_it_is [--seeds=3]

Every run is the digits recipe but for what its row says. Finished runs are not
repeated. Unequal classes: the largest class has 20 times as many training images as the
smallest, in equal ratios; the test set stays as it is. Annotators: three, each of whom
gives 40 % of the images a wrong label, uniformly and independently.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import machine
import numpy as np
from absl import app, flags, logging
from cells import spread

from dal_jax import cli, data, noise, training
from dal_jax.config import (
    AugmentationConfig,
    DatasetConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    TrainConfig,
)
from dal_jax.reporting.comparison_tables import markdown_table

_LOSSES = ("ce", "gce", "dal")
_RATIO, _LARGEST = 20, 125
_ANNOTATORS, _RATE = 3, 0.4
FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("workdir", "runs/data_as_it_is", "Where the runs are written.")
    flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ...")


def recipe() -> TrainConfig:
    """Returns ``configs/digits.py`` without noise, evaluated at the end only."""
    return TrainConfig(
        dataset=DatasetConfig("digits"),
        noise=NoiseConfig("none"),
        model=ModelConfig("cnn", channels=(32, 64), hidden=()),
        augmentation=AugmentationConfig(mean=(0.0,), std=(1.0,)),
        optimizer=OptimizerConfig(learning_rate=0.05),
        num_epochs=60,
        batch_size=64,
        eval_every=60,
        train_eval_size=0,
        checkpoint_every=60,
    )


def write_unequal(workdir: Path) -> None:
    """Writes digits whose classes have from 125 images down to 6."""
    digits = data.load(DatasetConfig("digits"))
    assert digits.test is not None
    sizes = np.round(_LARGEST * _RATIO ** (-np.arange(10) / 9)).astype(int)
    chosen = np.concatenate(
        [np.flatnonzero(digits.train.labels == k)[: sizes[k]] for k in range(10)]
    )
    for name, split in (("train", digits.train.take(chosen)), ("test", digits.test)):
        np.savez(
            workdir / f"{name}.npz",
            images=np.asarray(split.inputs),
            labels=split.labels,
            clean_labels=split.labels,
        )


def write_annotators(workdir: Path) -> None:
    """Writes what each annotator says of all images, in the original order."""
    train = data.load(DatasetConfig("digits")).train
    given = np.zeros((train.source_size, _ANNOTATORS), np.int32)
    for annotator in range(_ANNOTATORS):
        record = noise.apply(
            "symmetric_other",
            train.labels,
            num_classes=10,
            rate=_RATE,
            seed=1000 + annotator,
        )
        given[train.index, annotator] = record.noisy_labels
    np.save(workdir / "annotators.npy", given)
    np.save(workdir / "annotator0.npy", given[:, 0].astype(np.int64))


def cases(workdir: Path) -> Iterator[tuple[str, str, TrainConfig]]:
    """Yields a table's name, a row's name and the row's configuration."""
    for rate in (0.0, 0.2):
        for balance in (None, "classes"):
            config = recipe()
            config.dataset = DatasetConfig(
                "arrays",
                train_path=str(workdir / "train.npz"),
                test_path=str(workdir / "test.npz"),
                balance=balance,
            )
            config.noise = NoiseConfig("symmetric", rate)
            yield "balance", f"{balance or 'as they come'}, {rate:.0%} noise", config
    for row in ("one", "majority", "distribution"):
        config = recipe()
        if row == "one":
            path = str(workdir / "annotator0.npy")
            config.noise = NoiseConfig("file", path=path)
        else:
            path = str(workdir / "annotators.npy")
            config.dataset = DatasetConfig(
                "digits", annotators_path=path, annotators=row
            )
        yield "annotators", row, config
    for row, fields in (
        ("neither", {}),
        ("mixup 0.2", {"mixup": 0.2}),
        ("mixup 1", {"mixup": 1.0}),
        ("erasing 0.5", {"random_erasing": 0.5}),
    ):
        config = recipe()
        config.noise = NoiseConfig("symmetric", 0.4)
        for name, value in fields.items():
            setattr(config.augmentation, name, value)
        yield "augmentation", row, config


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    cli.use_compilation_cache()
    workdir = Path(FLAGS.workdir).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    write_unequal(workdir)
    write_annotators(workdir)
    tables: dict[str, dict[str, dict[str, list[float]]]] = {}
    for table, row, config in cases(workdir):
        cells = tables.setdefault(table, {}).setdefault(row, {})
        for loss in _LOSSES:
            for seed in range(FLAGS.seeds):
                run = copy.deepcopy(config)
                run.loss, run.seed = LossConfig(loss, per_epoch=False), seed
                name = f"{table}-{row}-{loss}-{seed}".replace(" ", "_")
                summary = training.train_and_evaluate(run, workdir / name)
                cells.setdefault(loss, []).append(summary["test_accuracy_last"])
            print(table, row, loss, np.round(cells[loss], 3), flush=True)
    described = machine.describe()
    result = {"machine": described, "accuracies": tables}
    (workdir / "data_as_it_is.json").write_text(json.dumps(result, indent=2) + "\n")
    for table, rows in tables.items():
        lines = [
            [row, *(spread(cells[x]) for x in _LOSSES)] for row, cells in rows.items()
        ]
        print("", markdown_table([table, *_LOSSES], lines), sep="\n")
    print(machine.markdown(described))


if __name__ == "__main__":
    cli.quiet()
    define_flags()
    app.run(main)
