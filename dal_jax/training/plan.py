"""The parts of a run: objects and numbers, checked."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from dal_jax.data import Split
from dal_jax.data.augment import Preprocess
from dal_jax.errors import InputError, unknown_name
from dal_jax.losses import Loss, StatefulLoss
from dal_jax.models import Functional, functionalize
from dal_jax.noise import NoiseRecord
from dal_jax.training import checks
from dal_jax.training.dynamics import Phases, make_phases

SOURCES_OF_RANDOMNESS = ("initialization", "data_order", "augmentation")
# Tells a finished run that its preprocessing is the default one.
_BY_DEFAULT = MappingProxyType({"preprocess": "default"})
Schedules = Mapping[str, Callable[[Any], Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out.

    Attributes:
      num_epochs: passes over the training set; 0 prepares and does not train.
      batch_size: examples a step, over all devices.
      eval_batch_size: the same for an evaluation.
      eval_every: epochs from one evaluation to the next; the last epoch has one.
      train_eval_size: how many training examples an evaluation counts, evenly spaced;
        ``None`` for all, 0 for none.
      checkpoint_every: epochs from one checkpoint to the next.
      keep_checkpoints: how many of the newest are kept.
      parallel: ``"jit"`` or ``"pmap"``.
      model_devices: devices that share the classes of the last layer (``jit``).
      on_nonfinite: ``"stop"`` or ``"skip"``, where a loss or gradient is not finite.
      ema_decay: decay of the average of the parameters over time, which evaluation
        and prediction then use; ``None`` for no average.
      workers: threads that decode a stream; ``None`` for one a core.
      balance: ``"classes"`` draws classes evenly, see
        :func:`dal_jax.data.balance.balanced_order`; ``None`` takes every example once
        an epoch.
      mixup: alpha of the Beta distribution, see :mod:`dal_jax.training.mixup`; 0 mixes
        nothing.
    """

    num_epochs: int
    batch_size: int
    eval_batch_size: int = 500
    eval_every: int = 1
    train_eval_size: int | None = None
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    parallel: str = "jit"
    model_devices: int = 1
    on_nonfinite: str = "stop"
    ema_decay: float | None = None
    workers: int | None = None
    balance: str | None = None
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (
            ("num_epochs", 0),
            ("batch_size", 1),
            ("eval_batch_size", 1),
            ("eval_every", 1),
            ("train_eval_size", 0),
            ("checkpoint_every", 1),
            ("keep_checkpoints", 1),
            ("workers", 0),
            ("mixup", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(
                    f"{name}={value} is out of range: expected at least {least}; "
                    f"give another {name}"
                )
        if self.on_nonfinite not in ("stop", "skip"):
            raise unknown_name("on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        if self.balance not in (None, "classes"):
            raise unknown_name("balance", self.balance, ("classes",))
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(
                f"ema_decay={self.ema_decay} is out of range: expected at least 0 and "
                "less than 1, or none; give another ema_decay"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The objects of a run.

    Attributes:
      model: the network as pure functions.
      train: the training examples with their given labels.
      validation: examples with given labels that are held out, or ``None``.
      test: examples for the report, or ``None``.
      loss: per example, with its memory.
      optimizer: an optax gradient transformation.
      preprocess: raw inputs to the network's.
      record: what is known about the given labels.
      class_names: one a class.
      seeds: by source of randomness.
      options: how the run is carried out.
      loss_name: how the summary names the loss.
      schedules: functions of the step whose values an evaluation reports, by name.
    """

    model: Functional
    train: Split
    validation: Split | None
    test: Split | None
    loss: StatefulLoss
    optimizer: optax.GradientTransformation
    preprocess: Preprocess
    record: NoiseRecord
    class_names: tuple[str, ...]
    seeds: Mapping[str, int]
    options: Options
    loss_name: str
    schedules: Schedules

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        named = (
            ("train", self.train),
            ("validation", self.validation),
            ("test", self.test),
        )
        return {name: split for name, split in named if split is not None}

    @property
    def reported_split(self) -> str | None:
        """The split of whose examples the report shows the predictions.

        The test set, or what validates; ``None`` where examples have several labels.
        """
        for name in ("test", "validation"):
            split = self.splits.get(name)
            if split is not None and len(split) and split.labels.ndim == 1:
                return name
        return None

    @functools.cached_property
    def phases(self) -> Phases | None:
        """When the run is early and late, for what is recorded of each example.

        ``None`` where nothing is recorded: examples with several labels or with
        distributions.
        """
        labels = self.train.labels
        if labels.ndim > 1 or labels.dtype.kind not in "iu":
            return None
        epochs = self.options.num_epochs
        return make_phases(
            epochs * self.steps_per_epoch, epochs, self.loss.coefficients
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch; its last batch is filled up."""
        return -(-len(self.train) // self.options.batch_size)


def make_plan(
    model: Any,
    train: Any,
    *,
    loss: Any,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    batch_size: int,
    test: Any = None,
    validation: Any = None,
    preprocess: Preprocess | None = None,
    class_names: tuple[str, ...] | None = None,
    record: NoiseRecord | None = None,
    seed: int = 0,
    seeds: Mapping[str, int] | None = None,
    loss_name: str | None = None,
    schedules: Schedules | None = None,
    **further: Any,
) -> Plan:
    """Returns the plan of a run; arguments as of :func:`dal_jax.training.fit`.

    Raises:
      InputError: an argument of the wrong kind, or arguments that do not fit together.
    """
    options = Options(num_epochs=num_epochs, batch_size=batch_size, **further)
    checks.check_optimizer(optimizer)
    seeds = dict.fromkeys(SOURCES_OF_RANDOMNESS, seed) | dict(seeds or {})
    checks.check_seeds(seeds, SOURCES_OF_RANDOMNESS)
    train = checks.as_split(train)
    validation = None if validation is None else checks.as_split(validation)
    test = None if test is None else checks.as_split(test)
    if not len(train):
        raise InputError("the training set is empty: expected at least one example")
    if options.batch_size > len(train):
        raise InputError(
            f"batch_size={options.batch_size} is larger than the training set of "
            f"{len(train)} examples: expected at most that; give a smaller batch_size"
        )
    preprocess = preprocess or default_preprocess(train.input_shape, train.input_dtype)
    inputs = checks.network_inputs(preprocess, train)
    network = functionalize(model, inputs)
    num_classes = checks.number_of_classes(network, inputs, train.labels)
    if class_names is None:
        class_names = tuple(map(str, range(num_classes)))
    if len(class_names) != num_classes:
        raise InputError(
            f"the network has {num_classes} logits and there are {len(class_names)} "
            "class names: expected as many of each"
        )
    for what, split in ("training", train), ("validation", validation), ("test", test):
        if split is not None:
            checks.check_split(split, what, num_classes, train.input_shape)
    checks.check_classes(train.labels, num_classes)
    named = loss_name or getattr(loss, "__name__", type(loss).__name__)
    loss = as_stateful(loss)
    if options.balance is not None:
        checks.check_one_label(train.labels, "balance=classes")
    if options.mixup:
        checks.check_one_label(train.labels, "mixup")
        checks.check_mixes(inputs, loss, named)
    if options.mixup or train.label_distributions is not None:
        checks.check_takes_distributions(loss, named, num_classes)
    return Plan(
        model=network,
        train=train,
        validation=validation,
        test=test,
        loss=loss,
        optimizer=optimizer,
        preprocess=preprocess,
        record=record or given_labels(train, num_classes),
        class_names=class_names,
        seeds=seeds,
        options=options,
        loss_name=named,
        schedules=schedules or {},
    )


def as_stateful(loss: Loss | StatefulLoss) -> StatefulLoss:
    """Returns a loss as a :class:`StatefulLoss`, which may remember its examples."""
    if isinstance(loss, StatefulLoss):
        return loss
    if not callable(loss):
        raise InputError(
            f"the loss is a {type(loss).__name__}: expected a function (logits, "
            "labels, step) of each example's loss, or a losses.StatefulLoss"
        )

    def apply(logits, labels, step, memory, index):
        del index
        return loss(logits, labels, step), memory

    return StatefulLoss(lambda: (), apply)


def default_preprocess(input_shape: Sequence[int], dtype: Any) -> Preprocess:
    """Returns the preprocessing of a run that names none.

    Images, uint8 ``[N, height, width, channels]``, are scaled to [0, 1]; any other
    input reaches the network unchanged.
    """
    if len(input_shape) == 3 and dtype == np.uint8:
        return Preprocess(lambda keys, x: _unit(x), _unit, _BY_DEFAULT)
    return Preprocess(lambda keys, x: x, lambda x: x, _BY_DEFAULT)


def _unit(images: Any) -> Any:
    return images.astype(jnp.float32) * (1 / 255)


def given_labels(split: Split, num_classes: int) -> NoiseRecord:
    """Returns the record of labels to which no noise was added."""
    return NoiseRecord.count(
        checks.class_numbers(split.labels),
        split.clean_labels,
        split.index,
        num_classes=num_classes,
        nominal_rate=float("nan"),
        kind="given",
        options={},
    )
