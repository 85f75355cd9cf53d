"""Trains small cases in a process that the tests start.

    train_cases.py one OUT IMAGES CASES           these cases, in the first way
    train_cases.py many OUT IMAGES CASES          these cases, in every way
    train_cases.py two OUT IMAGES ADDRESS NUMBER  as one of two processes
    train_cases.py command FLAGS                  the training command, less patient

It is a configuration file as well, of the run that is killed.
"""

import copy
import signal
import sys
from pathlib import Path

from dal_jax.config import AugmentationConfig, DatasetConfig, ModelConfig, TrainConfig

# Each way to run: the mode and how many devices share the classes.
WAYS = {"jit": ("jit", 1), "pmap": ("pmap", 1), "jit, classes shared by 2": ("jit", 2)}


def case(loss: str, model: ModelConfig, epochs: int = 2, **dataset) -> TrainConfig:
    """Returns a run of 8 steps an epoch."""
    config = TrainConfig(
        dataset=DatasetConfig(**{"train_size": 240, "test_size": 100} | dataset),
        model=model,
        augmentation=AugmentationConfig(flip=True),
        num_epochs=epochs,
        batch_size=32,
        checkpoint_every=1,
        train_eval_size=0,
    )
    config.loss.name = loss
    return config


def get_config() -> TrainConfig:
    """Returns a run that lasts long enough to be killed."""
    return case("dal", ModelConfig("mlp", hidden=(8,)), epochs=16)


# Batch norm over images of one pixel makes differences grow tenfold a step: two steps.
RESIDUAL = case("dal", ModelConfig("resnet18"), epochs=1, train_size=64)
RESIDUAL.optimizer.learning_rate = 0.01
MIXED = case("dal", ModelConfig("mlp", hidden=(8,)), balance="classes")
MIXED.augmentation.mixup, MIXED.augmentation.random_erasing = 0.5, 0.5
CASES = {
    # A loss that remembers its examples, and one that draws random numbers.
    "cnn": case("elr", ModelConfig("cnn", channels=(4, 8), hidden=(16,))),
    "residual": RESIDUAL,
    "mixed": MIXED,
    "streamed": case(
        "nlnl", ModelConfig("mlp", hidden=(8,)), name="folder", storage="stream"
    ),
}


def ways_of(name: str) -> list[str]:
    """Returns the ways in which a case is trained on many devices."""
    return list(WAYS) if name == "cnn" else ["jit", "pmap"]


def train(name: str, way: str, workdir: Path, images: Path, stop=None) -> None:
    """Trains a case in a way."""
    from dal_jax import recipe
    from dal_jax.models.resnet import BasicBlock, ResNet
    from dal_jax.training import fit, parallel

    config = copy.deepcopy(CASES[name])
    config.parallel, config.model_devices = WAYS[way]
    if config.dataset.name == "folder":
        config.dataset.train_path = str(images / "train")
        config.dataset.test_path = str(images / "test")
    objects = recipe.ingredients(config, recipe.prepare(config))
    if name == "residual":
        # As its configuration says, but with two blocks and not with eight.
        objects["model"] = lambda rngs: ResNet(
            BasicBlock,
            (1, 1),
            small_images=True,
            image_shape=(8, 8, 1),
            num_classes=10,
            axis_name=parallel.axis_name(config.parallel),
            rngs=rngs,
        )
    identity = recipe.identity_of(config)
    fit(**objects, workdir=workdir, identity=identity, stop=stop)


def train_as_one_of_two(out: Path, images: Path, address: str, number: int) -> None:
    """Is refused, goes on with a run, and is stopped and goes on with others."""
    from dal_jax.errors import InputError
    from dal_jax.training import feed, processes, stopping, train_and_evaluate

    processes.initialize(
        automatic=False, coordinator=address, num_processes=2, process_id=number
    )
    # To the first process every call of the step seems short, to the second none.
    feed._CALL_SECONDS = (1e9, 0.0)[number]
    try:
        train("cnn", "jit", images / "train" / "0" / "0.png", images)
    except InputError as error:
        print("refused:", error, flush=True)
    train_and_evaluate(get_config(), out / "killed")

    class AskedAtTheThird(stopping.Stop):
        """As if a signal came before the third call of the device."""

        asked = 0

        @property
        def signal_number(self) -> int:
            self.asked += 1
            return signal.SIGTERM if self.asked >= 3 else 0

        @signal_number.setter
        def signal_number(self, number: int) -> None:
            pass

    for name, way in (("cnn", "pmap"), ("streamed", "jit")):
        workdir = out / f"{name}, {way}"
        stop = AskedAtTheThird() if number == 1 else None
        try:
            train(name, way, workdir, images, stop)
        except stopping.Interrupted as error:
            print(error, flush=True)
        train(name, way, workdir, images)


def train_by_command(*flags: str) -> None:
    """Runs the training command, three times less patient with dead processes."""
    import jax

    from dal_jax.commands.train import main

    initialize = jax.distributed.initialize

    def less_patient(*, shutdown_timeout_seconds, **given):
        initialize(shutdown_timeout_seconds=shutdown_timeout_seconds // 3, **given)

    jax.distributed.initialize = less_patient
    main([__file__, *flags])


def main() -> None:
    """Does what the command line says."""
    if sys.argv[1] == "command":
        train_by_command(*sys.argv[2:])
        return
    what, out, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "two":
        train_as_one_of_two(out, images, sys.argv[4], int(sys.argv[5]))
        return
    for name in filter(None, sys.argv[4].split(",")):
        for way in ways_of(name) if what == "many" else ["jit"]:
            train(name, way, out / f"{name}, {way}", images)
    if what == "many":
        from dal_jax.training import train_and_evaluate

        train_and_evaluate(get_config(), out / "killed")


if __name__ == "__main__":
    main()
