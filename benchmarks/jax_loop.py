"""What ``train.py`` runs, one epoch at a time and as one case of a benchmark."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import clock

from dal_jax import data, models, noise, recipe
from dal_jax.config import (
    AugmentationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from dal_jax.training import experiment as experiments
from dal_jax.training import feed
from dal_jax.training.plan import make_plan
from dal_jax.training.state import TrainMetrics


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its images and its recipe."""

    model: str
    image_shape: tuple[int, int, int]
    batch_size: int
    examples: int
    flip: bool = False
    crop_padding: int = 0
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4


class Trained:
    """Training of a case as ``train.py`` does it."""

    def __init__(
        self, case: Case, precision: str, images: np.ndarray, labels: np.ndarray
    ):
        started = clock()
        objects = recipe.ingredients(
            _config(case, precision), _prepared(images, labels)
        )
        self._experiment = experiments.build(make_plan(**objects))
        zero = self._experiment.parallel.place_data(TrainMetrics.zero())
        self._carry = (self._experiment.init(), zero)
        self._epoch = 0
        self.steps = self._experiment.steps_per_epoch
        unit = self._experiment.run_train.unit
        # Where programs have no length of their own, none has to be run.
        self._run(self._experiment.run_train, unit if unit > 1 else 0)
        self.compile_seconds = clock() - started

    def epoch(self) -> None:
        """Trains one epoch and waits for it."""
        self._run(self._experiment.run_train, self.steps)
        self._epoch += 1

    def host_seconds_per_step(self, repetitions: int = 20) -> float:
        """Returns what the host does for an epoch, over the epoch's steps.

        The same calls are made as in an epoch, with the same state, and with a step
        that does nothing: an order is drawn and handed over, programs are called,
        metrics are read, and that is all there is to wait for.
        """
        parallel = self._experiment.parallel
        no_step = feed.make_runner(
            parallel,
            feed.Resident(parallel.place_data(np.zeros((1, 1), np.uint8)), (1,)),
            {},
            lambda context, carry, batch: carry,
            rows=self.steps,
            donate=True,
        )
        times = []
        for _ in range(repetitions + 1):
            began = clock()
            self._epoch += 1
            self._run(no_step, self.steps)
            times.append(clock() - began)
        return float(np.median(times[1:])) / self.steps  # the first one compiles

    def _run(self, runner: feed.Runner, rows: int) -> None:
        order = self._experiment.order(self._epoch)
        self._carry = runner(self._experiment.context, self._carry, order, 0, rows)
        self._experiment.parallel.fetch(self._carry[1])


def flops_per_image(case: Case) -> float:
    """Returns a training step's arithmetic: three times the forward pass's."""
    network = models.functionalize(
        lambda rngs: models.create(
            case.model, image_shape=case.image_shape, num_classes=10, rngs=rngs
        )
    )
    params, model_state = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((8, *case.image_shape), jnp.float32)
    forward = jax.jit(lambda *args: network.apply(*args, True)[0])
    # For a CPU: XLA does not count what it hands to a GPU's libraries.
    with jax.default_device(jax.devices("cpu")[0]):
        cost: Any = forward.lower(params, model_state, images).cost_analysis()
    return 3 * cost["flops"] / images.shape[0]


def _config(case: Case, precision: str) -> TrainConfig:
    return TrainConfig(
        loss=LossConfig(name="ce"),
        model=ModelConfig(name=case.model),
        augmentation=AugmentationConfig(flip=case.flip, crop_padding=case.crop_padding),
        optimizer=OptimizerConfig(
            learning_rate=case.learning_rate,
            momentum=case.momentum,
            weight_decay=case.weight_decay,
        ),
        batch_size=case.batch_size,
        precision=precision,
    )


def _prepared(images: np.ndarray, labels: np.ndarray) -> recipe.Prepared:
    record = noise.apply("none", labels, num_classes=10, rate=0.0, seed=0)
    train = data.Split(images, labels, clean_labels=labels)
    return recipe.Prepared(
        tuple("0123456789"), train, record, validation=None, test=None
    )
