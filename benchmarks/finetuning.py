r"""A backbone trained on one half of CIFAR-10's classes, fine-tuned on the other half.

    python benchmarks/finetuning.py --data_dir=TFDS_DIRECTORY --workdir=runs/finetuning
        [--losses=ce,gce,dal] [--seeds=0,1,2] [--size=8]

ResNet-18 learns five classes from clean labels (10,000 images at SIZE x SIZE pixels, 8
epochs, seed 0), and its weights are written under timm's names. The other five classes
have 1,000 training images with 40 % symmetric noise, and 10 epochs. They are learnt
from scratch, from the weights (the learning rate below the last layer is a tenth), and
with the backbone frozen. The seeds are of these runs, all of which have the same
weights. 2,000 test images are of the classes that were learnt. Finished runs are not
repeated, so the same command continues a study that was stopped.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import machine
import numpy as np
from absl import app, flags, logging
from cells import spread
from flax import nnx

from dal_jax import cli, data, models, recipe, training
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

_HALF = 5
_SOURCE_IMAGES, _TARGET_IMAGES, _TEST_IMAGES = 10_000, 1_000, 2_000
# How the second half is learnt: what differs from learning it from scratch.
_WAYS: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "all layers": {"backbone_rate": 0.1},
    "frozen": {"freeze": "backbone"},
}
FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "Of tensorflow-datasets.", required=True)
    flags.DEFINE_string("workdir", "runs/finetuning", "Where the runs are written.")
    flags.DEFINE_list("losses", ["ce", "gce", "dal"], "Names of losses.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the fine-tuning.")
    flags.DEFINE_integer("size", 8, "Pixels a side.")


def write_halves(workdir: Path, data_dir: str, size: int) -> None:
    """Writes the images of each half of the classes, training and test."""
    dataset = data.load(
        DatasetConfig("tfds", "cifar10", data_dir=data_dir, image_size=size)
    )
    assert dataset.test is not None
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        for half, images in (("source", _SOURCE_IMAGES), ("target", _TARGET_IMAGES)):
            first = 0 if half == "source" else _HALF
            chosen = np.flatnonzero(split.labels // _HALF == first // _HALF)
            chosen = chosen[: images if name == "train" else _TEST_IMAGES]
            labels = split.labels[chosen] - first
            arrays = {"images": np.asarray(split.inputs)[chosen], "labels": labels}
            np.savez(workdir / f"{half}_{name}.npz", **arrays, clean_labels=labels)


def configure(
    workdir: Path, half: str, loss: str, seed: int, rate: float, epochs: int
) -> TrainConfig:
    """Returns a run from scratch on one half of the classes."""
    return TrainConfig(
        dataset=DatasetConfig(
            "arrays",
            train_path=str(workdir / f"{half}_train.npz"),
            test_path=str(workdir / f"{half}_test.npz"),
        ),
        noise=NoiseConfig("symmetric", rate),
        loss=LossConfig(loss),
        model=ModelConfig("resnet18"),
        augmentation=AugmentationConfig(flip=True),
        optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=1e-4),
        seed=seed,
        num_epochs=epochs,
        batch_size=100,
        eval_every=epochs,
        train_eval_size=0,
        checkpoint_every=epochs,
    )


def write_weights(workdir: Path) -> Path:
    """Trains on the first half; returns the file of weights."""
    path = workdir / "source.safetensors"
    if path.exists():
        return path
    config = configure(workdir, "source", "ce", 0, 0.0, epochs=8)
    prepared = recipe.prepare(config)
    objects = recipe.ingredients(config, prepared)
    result = training.fit(**objects, workdir=workdir / "source")
    print(f"source: {result.summary['test_accuracy_last']:.3f}", flush=True)
    described = objects["preprocess"].description
    # The network as it was before training; what training made of it follows.
    module = objects["model"](nnx.Rngs(0))
    models.save_weights(
        module,
        path,
        head=False,  # the other classes' last layer starts anew
        params=result.params,
        model_state=result.model_state,
        normalization=models.Normalization(
            tuple(described["mean"]), tuple(described["std"])
        ),
    )
    return path


def run(workdir: Path, way: str, loss: str, seed: int, weights: Path) -> float:
    """Returns the accuracy on the second half's test images at the last epoch."""
    config = configure(workdir, "target", loss, seed, 0.4, epochs=10)
    if way != "from scratch":
        config.model.weights = str(weights)
    config.model.freeze = _WAYS[way].get("freeze")
    config.optimizer.backbone_rate = _WAYS[way].get("backbone_rate", 1.0)
    directory = workdir / f"{way.replace(' ', '_')}-{loss}-{seed}"
    summary = training.train_and_evaluate(config, directory)
    return summary["test_accuracy_last"]


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    cli.use_compilation_cache()
    workdir = Path(FLAGS.workdir).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "target_test.npz").exists():
        write_halves(workdir, FLAGS.data_dir, FLAGS.size)
    accuracies: dict[str, list[float]] = {}
    weights = write_weights(workdir)
    for seed in map(int, FLAGS.seeds):
        for way, loss in itertools.product(_WAYS, FLAGS.losses):
            accuracy = run(workdir, way, loss, seed, weights)
            accuracies.setdefault(f"{way}, {loss}", []).append(accuracy)
            print(f"{way}, {loss}, seed {seed}: {accuracy:.3f}", flush=True)
    described = machine.describe()
    result = {"machine": described, "accuracies": accuracies}
    (workdir / "finetuning.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        [way, *(spread(accuracies[f"{way}, {loss}"]) for loss in FLAGS.losses)]
        for way in _WAYS
    ]
    print(markdown_table(["", *FLAGS.losses], lines))
    print(machine.markdown(described))


if __name__ == "__main__":
    cli.quiet()
    define_flags()
    app.run(main)
