"""The one place where names become objects: a configuration taken apart at the door.

Everything below works on objects. :func:`check` is what can be said of a configuration
without its data, :func:`prepare` gives the data with its noise, :func:`ingredients` all
that :func:`dal_jax.training.fit` takes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from dal_jax import data, losses, models, networks, noise, optimizers, preprocessing
from dal_jax.config import OptimizerConfig, TrainConfig, config_of, plain
from dal_jax.data.augment import Preprocess
from dal_jax.data.form import InputForm
from dal_jax.data.statistics import class_counts
from dal_jax.errors import InputError, unknown_name
from dal_jax.networks import PRECISIONS
from dal_jax.training.fingerprint import Identity
from dal_jax.training.plan import Options


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Attributes:
      class_names: one a class.
      train: the training examples; ``labels`` are the noisy ones.
      record: what the noise did to them.
      validation: noisy examples held out, or ``None``.
      test: examples for the report, or ``None`` where the source has none.
      skipped: the images that do not decode and were left out, by path.
      columns: of a table, those that the inputs come from.
      notes: lines about the data that a person would want to know.
    """

    class_names: tuple[str, ...]
    train: data.Split
    record: noise.NoiseRecord
    validation: data.Split | None
    test: data.Split | None
    skipped: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def identity_of(config: TrainConfig) -> Identity:
    """Returns what stands for a configured run: its fields, and their defaults."""
    defaults = dict(plain(TrainConfig()))
    declared = losses.hyperparameters(config.loss.name)
    # Version 0.1.0 wrote it of every loss, also of those that have no use for it.
    per_epoch = declared["per_epoch"].default if "per_epoch" in declared else False
    defaults["loss"] = {"per_epoch": per_epoch, **defaults["loss"]}
    return Identity(plain(config), defaults)


def check(config: TrainConfig) -> None:
    """Raises InputError for what is wrong with a configuration whatever the data."""
    _options(config)
    seeds = {"seed": config.seed, "noise.seed": config.noise.seed}
    seeds |= {f"seeds.{name}": seed for name, seed in vars(config.seeds).items()}
    for name, seed in seeds.items():
        if seed is not None and not 0 <= seed < 2**32:
            raise InputError(
                f"{name}={seed} is out of range: expected 0 to 4294967295; "
                f"give another --config.{name}"
            )
    if config.precision not in PRECISIONS:
        raise unknown_name("precision", config.precision, PRECISIONS)
    networks.check(config)
    if config.dataset.annotators == "distribution" and config.noise.kind != "none":
        raise InputError(
            f"noise.kind={config.noise.kind} with dataset.annotators=distribution: "
            "expected none, because noise changes labels and not the annotators' "
            "shares; set --config.noise.kind=none"
        )
    make_optimizer(config.optimizer, config.num_epochs, 1)
    make_loss(config, steps_per_epoch=1, num_classes=2, num_examples=1)


def prepare(config: TrainConfig, dataset: data.Dataset | None = None) -> Prepared:
    """Loads the data that ``config`` names and applies its noise.

    The noise is applied once, to every training example that is used, before the
    validation split is taken: what validates a model has noisy labels too.

    Args:
      config: of the run.
      dataset: what ``config.dataset`` names, where it has been loaded before.

    Raises:
      InputError: whatever is wrong with the data set or the noise asked for.
    """
    if dataset is None:
        dataset = data.load(config.dataset)
    record = apply_noise(config, dataset)
    pool = _with_labels(dataset.train, record)
    kept, held_out = data.validation_split(
        len(pool), config.dataset.validation_fraction
    )
    train = pool.take(kept) if len(held_out) else pool
    return Prepared(
        class_names=dataset.class_names,
        train=train,
        record=record.take(kept) if len(held_out) else record,
        validation=pool.take(held_out) if len(held_out) else None,
        test=dataset.test,
        skipped=dataset.skipped,
        columns=dataset.columns,
        notes=(*dataset.notes, class_counts(train.labels, dataset.class_names)),
    )


def apply_noise(config: TrainConfig, dataset: data.Dataset) -> noise.NoiseRecord:
    """Returns the noisy labels that a configuration gives to training examples.

    Those that a label file takes out of training are not among them.
    """
    pool = dataset.train
    return noise.apply(
        config.noise.kind,
        pool.labels,
        num_classes=len(dataset.class_names),
        rate=config.noise.rate,
        seed=config.seed if config.noise.seed is None else config.noise.seed,
        clean_labels=pool.clean_labels,
        index=pool.index,
        index_is_original=pool.index_is_original,
        source_size=pool.source_size or None,
        images=pool.inputs if config.noise.kind == "instance" else None,
        path=config.noise.path,
        class_map=config.noise.class_map or noise.class_map_for(dataset.name),
        pixel_scaling=config.noise.pixel_scaling,
    )


def _with_labels(pool: data.Split, record: noise.NoiseRecord) -> data.Split:
    if len(record.index) < len(pool):
        pool = pool.take(np.flatnonzero(np.isin(pool.index, record.index)))
    return dataclasses.replace(pool, labels=record.noisy_labels)


def ingredients(
    config: TrainConfig, prepared: Prepared, *, read_weights: bool = True
) -> dict[str, Any]:
    """Returns the arguments of :func:`dal_jax.training.fit`.

    Args:
      config: of the run.
      prepared: its data.
      read_weights: whether to start from the file ``model.weights``, if there is one;
        ``False`` if the run goes on from a checkpoint.

    Raises:
      InputError: weights that are not those of the network, or what does not fit the
        data.

    Example:
      >>> from dal_jax.config import DatasetConfig
      >>> config = TrainConfig(dataset=DatasetConfig(train_size=64, test_size=10),
      ...                      num_epochs=1)
      >>> from dal_jax import training
      >>> result = training.fit(**ingredients(config, prepare(config)))
      >>> result.summary["steps"]
      1
    """
    if read_weights:
        config = networks.filled_in(config)
    train, num_classes = prepared.train, len(prepared.class_names)
    steps_per_epoch = -(-len(train) // config.batch_size)
    optimizer, learning_rate = make_optimizer(
        config.optimizer, config.num_epochs, steps_per_epoch
    )
    if config.model.freeze is not None:
        optimizer = optimizers.head_alone(optimizer, models.is_head)
    return {
        "model": networks.make(
            config, train.input_shape, num_classes, read_weights=read_weights
        ),
        "train": train,
        "validation": prepared.validation,
        "test": prepared.test,
        "loss": make_loss(config, steps_per_epoch, num_classes, len(train)),
        "optimizer": optimizer,
        "preprocess": preprocessing.make(
            config,
            InputForm(train.input_shape, train.input_dtype, columns=prepared.columns),
            *preprocessing.statistics(config, train),
        ),
        "class_names": prepared.class_names,
        "record": prepared.record,
        "seed": config.seed,
        "seeds": {
            name: seed
            for name, seed in vars(config.seeds).items()
            if seed is not None and name != "loss"
        },
        "loss_name": config.loss.name,
        "schedules": {"learning_rate": learning_rate},
        **dataclasses.asdict(_options(config)),
    }


def make_loss(
    config: TrainConfig, steps_per_epoch: int, num_classes: int, num_examples: int
) -> losses.StatefulLoss:
    """Returns the loss that a configuration names."""
    hyperparameters = config.loss.hyperparameters
    if "seed" in losses.accepted(config.loss.name):
        seed = config.seed if config.seeds.loss is None else config.seeds.loss
        hyperparameters = {"seed": seed} | hyperparameters
    return losses.make_stateful(
        config.loss.name,
        total_steps=max(config.num_epochs * steps_per_epoch, 1),
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
        num_examples=num_examples,
        preset=config.loss.preset,
        **hyperparameters,
    )


def make_optimizer(
    config: OptimizerConfig, num_epochs: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule]:
    """Returns the optax transformation that a configuration names, and its rate."""
    learning_rate = optimizers.learning_rate_schedule(
        config.schedule,
        config.learning_rate,
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
        decay_rate=config.decay_rate,
        decay_epochs=config.decay_epochs,
        warmup_epochs=config.warmup_epochs,
        per_epoch=config.per_epoch,
    )
    optimizer = optimizers.create(
        config.name,
        learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        decay_vectors=config.decay_vectors,
        clip_norm=config.clip_norm,
    )
    slower = config.backbone_rate, config.head_epochs
    if slower != (1, 0):
        if not 0 <= config.head_epochs <= max(num_epochs, 1):
            raise InputError(
                f"optimizer.head_epochs={config.head_epochs} is out of range: expected "
                "0 to num_epochs; change --config.optimizer.head_epochs"
            )
        from_step = round(config.head_epochs * steps_per_epoch)
        optimizer = optax.chain(
            optimizer,
            optimizers.scale_backbone(config.backbone_rate, from_step, models.is_head),
        )
    return optimizer, learning_rate


def _options(config: TrainConfig) -> Options:
    named = [field.name for field in dataclasses.fields(Options)]
    given = {name: getattr(config, name) for name in named if hasattr(config, name)}
    return Options(
        **given,
        ema_decay=config.optimizer.ema_decay,
        balance=config.dataset.balance,
        mixup=config.augmentation.mixup,
        workers=config.dataset.workers,
    )


def of_finished_run(
    values: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[Any, Preprocess]:
    """Returns the network and the preprocessing of a run by names, without its data.

    Args:
      values: what ``config.json`` holds.
      inputs: what ``preprocessing.json`` holds.

    Raises:
      InputError: a configuration of a version that knows more.
    """
    config, form = config_of(values), InputForm.of_run(inputs)
    if config is None:
        raise InputError(
            "the run was made of objects, which its directory does not hold: expected "
            "the same model again; pass model=..., and preprocess=... if it had one"
        )
    return (
        networks.make(
            config, form.shape, len(inputs["class_names"]), read_weights=False
        ),
        preprocessing.make(config, form, inputs["mean"], inputs["std"]),
    )
