"""Configuration and data to the functions that a loop calls."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax import data, losses, models
from dal_jax.config import LossConfig, TrainConfig
from dal_jax.data import augment
from dal_jax.data.statistics import image_statistics
from dal_jax.errors import InputError, unknown_name
from dal_jax.seeds import jax_key
from dal_jax.training import optimizer as optimizers
from dal_jax.training import step as steps
from dal_jax.training.evaluation import Evaluation, make_evaluation
from dal_jax.training.feed import (
    Runner,
    epoch_order,
    make_runner,
    place_images,
)
from dal_jax.training.parallel import Pmap, ShardedJit, make_parallel
from dal_jax.training.prepare import Prepared
from dal_jax.training.state import TrainMetrics, TrainState

_PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Carry = tuple[TrainState, TrainMetrics]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run's pure functions, bound to its devices and data.

    Attributes:
      parallel: the devices.
      steps_per_epoch: steps in one epoch.
      init: ``() -> state``, placed on the devices.
      order: ``epoch -> positions [steps, batch]``.
      run_train: runs rows of an order over ``(state, metrics)``.
      evaluations: by name (``train``, ``validation``, ``test``).
      learning_rate: as a function of the step.
      coefficients: the loss's scheduled coefficients as a function of the step.
    """

    parallel: ShardedJit | Pmap
    steps_per_epoch: int
    init: Callable[[], TrainState]
    order: Callable[[int], np.ndarray]
    run_train: Runner
    evaluations: dict[str, Evaluation]
    learning_rate: Callable[[Any], Any]
    coefficients: Callable[[Any], dict[str, jax.Array]]


def check(config: TrainConfig) -> None:
    """Raises InputError for what is wrong with a configuration whatever the data."""
    for name, least in (
        ("num_epochs", 0),
        ("batch_size", 1),
        ("eval_batch_size", 1),
        ("eval_every", 1),
        ("checkpoint_every", 1),
        ("keep_checkpoints", 1),
    ):
        _at_least(name, getattr(config, name), least)
    seeds = {"seed": config.seed, "noise.seed": config.noise.seed}
    seeds |= {f"seeds.{name}": seed for name, seed in vars(config.seeds).items()}
    for name, seed in seeds.items():
        if seed is not None and not 0 <= seed < 2**32:
            raise InputError(
                f"{name}={seed} is out of range: expected 0 to 4294967295; "
                f"give another --config.{name}"
            )
    if config.precision not in _PRECISIONS:
        raise unknown_name("precision", config.precision, _PRECISIONS)
    if config.on_nonfinite not in ("stop", "skip"):
        raise unknown_name("on_nonfinite", config.on_nonfinite, ("stop", "skip"))
    if config.model.name not in models.names():
        raise unknown_name("model", config.model.name, models.names())
    for name in ("channels", "hidden"):
        for size in getattr(config.model, name):
            _at_least(f"model.{name}", size, 1)
    optimizers.make_learning_rate(config.optimizer, config.num_epochs, 1)
    make_loss(config.loss, config.seed, 1, 1, 2, 1)


def make_loss(
    config: LossConfig,
    seed: int,
    num_epochs: int,
    steps_per_epoch: int,
    num_classes: int,
    num_examples: int,
) -> losses.StatefulLoss:
    """Returns the loss that a configuration names."""
    hyperparameters = config.hyperparameters
    if "seed" in losses.accepted(config.name):
        hyperparameters = {"seed": seed} | hyperparameters
    return losses.make_stateful(
        config.name,
        total_steps=max(num_epochs * steps_per_epoch, 1),
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
        num_examples=num_examples,
        preset=config.preset,
        **hyperparameters,
    )


def build(config: TrainConfig, prepared: Prepared) -> Experiment:
    """Returns the experiment; nothing is compiled or initialised yet.

    Raises:
      InputError: what does not fit together.
    """
    parallel = make_parallel(config.parallel, config.batch_size, config.model_devices)
    train = prepared.train
    if config.batch_size > len(train):
        raise InputError(
            f"batch_size={config.batch_size} is larger than the training set of "
            f"{len(train)} examples: expected at most that; lower --config.batch_size"
        )
    num_classes = len(prepared.class_names)
    steps_per_epoch = -(-len(train) // config.batch_size)
    seeds = config.seeds
    dtype = _PRECISIONS[config.precision]
    preprocess = augment.make_preprocess(
        config.augmentation, *_image_statistics(config, train), dtype
    )
    model = models.functionalize(
        config.model,
        image_shape=_input_shape(config, train),
        num_classes=num_classes,
        dtype=dtype,
        axis_name=parallel.axis_name,
    )
    learning_rate = optimizers.make_learning_rate(
        config.optimizer, config.num_epochs, steps_per_epoch
    )
    optimizer = optimizers.make_optimizer(config.optimizer, learning_rate)
    loss = make_loss(
        config.loss,
        _seed(config, seeds.loss),
        config.num_epochs,
        steps_per_epoch,
        num_classes,
        len(train),
    )
    train_step = steps.make_train_step(
        model,
        preprocess,
        optimizer,
        loss,
        jax_key(_seed(config, seeds.augmentation), "augmentation"),
        skip_nonfinite=config.on_nonfinite == "skip",
        axis_name=parallel.axis_name,
    )
    eval_step = steps.make_eval_step(model, preprocess, axis_name=parallel.axis_name)

    def accumulate(context: Any, carry: Carry, batch: steps.Batch) -> Carry:
        state, metrics = carry
        state, of_batch = train_step(state, batch)
        return state, metrics.merge(of_batch)

    init = steps.make_init(model, optimizer, loss)
    init_key = jax_key(_seed(config, seeds.initialization), "initialization")
    order_seed = _seed(config, seeds.data_order)
    workers = config.dataset.workers
    splits = {
        name: (split, place_images(parallel, split))
        for name, split in (
            ("train", train),
            ("validation", prepared.validation),
            ("test", prepared.test),
        )
        if split is not None
    }
    return Experiment(
        parallel=parallel,
        steps_per_epoch=steps_per_epoch,
        init=lambda: parallel.init_state(init, init_key),
        order=lambda epoch: epoch_order(
            order_seed, epoch, len(train), config.batch_size
        ),
        run_train=make_runner(
            parallel,
            splits["train"][1],
            {"label": train.labels.astype(np.int32)},
            accumulate,
            rows=steps_per_epoch,
            donate=True,
            workers=workers,
        ),
        evaluations={
            name: make_evaluation(
                parallel, eval_step, split, images, config.eval_batch_size, workers
            )
            for name, (split, images) in splits.items()
        },
        learning_rate=learning_rate,
        coefficients=loss.coefficients,
    )


def _image_statistics(
    config: TrainConfig, train: data.Split
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = config.augmentation.mean, config.augmentation.std
    if not mean and not std:
        return image_statistics(train.images)
    channels = train.image_shape[-1]
    fits = all(len(given) in (1, channels) for given in (mean, std))
    if not fits or min(std) <= 0:
        raise InputError(
            f"augmentation.mean={mean} and augmentation.std={std} do not fit: expected "
            f"both, of one number or of {channels}, std more than 0; give them so, or "
            "neither to measure them"
        )
    return mean, std


def _input_shape(config: TrainConfig, train: data.Split) -> tuple[int, int, int]:
    height, width, channels = train.image_shape
    side = config.augmentation.random_resized_crop
    return (height, width, channels) if side is None else (side, side, channels)


def _seed(config: TrainConfig, override: int | None) -> int:
    return config.seed if override is None else override


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(
            f"{name}={value} is out of range: expected at least {least}; "
            f"give another --config.{name}"
        )
