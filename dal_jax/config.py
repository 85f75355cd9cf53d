"""The configuration of a run: plain dataclasses with a default for every field.

A file under ``configs/`` returns a :class:`TrainConfig`; the command line overrides
single fields with ``--config.FIELD=VALUE``. ``None`` leaves the choice to the code that
reads the field; the comments say what it does. A loss's hyper-parameters have their
defaults in the loss.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, get_type_hints

from dal_jax.errors import InputError


@dataclasses.dataclass
class DatasetConfig:
    """Where the inputs and the given labels come from."""

    name: str = "digits"  # digits | tfds | arrays | folder | list
    tfds_name: str | None = None  # name: tfds; e.g. "cifar10", "cifar10:3.0.2"
    data_dir: str | None = None  # tensorflow-datasets directory, or the images' root
    train_split: str = "train"  # name: tfds
    test_split: str = "test"
    # arrays: .npz, .npy or .parquet; list: CSV; folder: directory
    train_path: str | None = None
    test_path: str | None = None
    train_labels: str | None = None  # arrays: .npy, .npz or CSV, if not in train_path
    test_labels: str | None = None
    input_columns: str | None = None  # .parquet: one of lists, or "age,height"
    label_column: str = "label"  # of CSV and .parquet
    clean_label_column: str = "clean_label"
    label_columns: str | None = None  # list: a column an annotator, "ann,ben,cleo"
    annotators_path: str | None = None  # .npy [examples, annotators], -1 for none
    annotators: str = "majority"  # majority | distribution: what the loss is given
    balance: str | None = None  # classes: each comes equally often, by given labels
    standardize: bool = False  # inputs but images, by the training set's statistics
    max_classes: int | None = None  # keep the first classes only (mini-WebVision: 50)
    train_size: int | None = None  # a fixed-seed subset of so many training examples
    test_size: int | None = None
    validation_fraction: float = 0.0  # held out of the noisy training set
    image_size: int | None = None  # resize to this many pixels a side
    channels: int | None = None  # 1 (grey) or 3 (colour)
    on_unreadable: str = "stop"  # stop | skip
    storage: str = "auto"  # auto | memory | stream
    workers: int | None = None  # threads that decode a stream; default one a core
    cache_dir: str | None = None  # where decoded images are kept; "" keeps none


@dataclasses.dataclass
class NoiseConfig:
    """How the given training labels are made wrong, once, before training."""

    kind: str = "symmetric"
    rate: float = 0.4
    seed: int | None = None  # default: derived from the run's seed
    path: str | None = None  # kinds file and transition_matrix
    class_map: str | None = None  # kind asymmetric: digits | cifar10 | cifar100
    pixel_scaling: str = "standardized"  # kind instance: raw | unit | standardized


class LossConfig(types.SimpleNamespace):
    """A loss by name, and the hyper-parameters that were given for it.

    A hyper-parameter that was not given reads as ``None`` and has the loss's own
    default. ``config.json`` holds ``vars(config)``.

    Args:
      name: one of :func:`dal_jax.losses.names`.
      preset: published values by data set, see :mod:`dal_jax.losses.presets`.
      **hyperparameters: the loss's own, see :func:`dal_jax.losses.accepted`; ``None``
        is the same as not given.

    Example:
      >>> config = LossConfig("dal", q_end=2.0, bootstrap=None)
      >>> config.q_end, config.bootstrap, vars(config)
      (2.0, None, {'name': 'dal', 'preset': None, 'q_end': 2.0})
    """

    def __init__(
        self, name: str = "dal", preset: str | None = None, **hyperparameters: Any
    ):
        super().__init__(name=name, preset=preset)
        for key, value in hyperparameters.items():
            setattr(self, key, value)

    def __setattr__(self, key: str, value: Any) -> None:
        """Sets a hyper-parameter; ``None`` removes it."""
        if value is None and key not in ("name", "preset"):
            vars(self).pop(key, None)
        else:
            super().__setattr__(key, value)

    def __getattr__(self, key: str) -> None:
        """Returns ``None`` for a hyper-parameter that was not given."""
        if key.startswith("_"):  # Python itself looks these up
            raise AttributeError(key)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The given hyper-parameters by name."""
        given = vars(self).items()
        return {key: value for key, value in given if key not in ("name", "preset")}


@dataclasses.dataclass
class ModelConfig:
    """A network by name."""

    name: str = "cnn"  # any of dal_jax.models.names()
    channels: tuple[int, ...] = (32, 64)  # cnn
    hidden: tuple[int, ...] = (128,)  # mlp, and the cnn's dense layers
    layer_norm: bool = False  # mlp
    dropout: float = 0.0  # mlp; the share of hidden units left out
    small_images: bool | None = None  # resnet: 3x3 stem; None: as weights, or its own
    remat: bool = False  # resnet and vit: more time, less memory
    weights: str | None = None  # a .safetensors file to start from
    weights_sha256: str | None = None  # of that file; a run fills it in
    freeze: str | None = None  # backbone: only the last layer learns


@dataclasses.dataclass
class AugmentationConfig:
    """What happens to training images on the device (docs/models.md has the order)."""

    crop_padding: int = 0  # zero padding before a random crop of the original size
    random_resized_crop: int | None = None  # side of the result; also centre-crops eval
    flip: bool = False
    color_jitter: tuple[float, ...] = ()  # brightness, contrast, saturation, hue
    random_crop: int | None = None  # side of a crop without padding; centre-crops eval
    random_erasing: float = 0.0  # probability that a rectangle is erased
    mixup: float = 0.0  # alpha of the Beta distribution; 0 mixes nothing
    # Of [0, 1] pixels; empty: what the weights expect, or of the training images.
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalization: str | None = None  # imagenet | inception, in place of mean and std


@dataclasses.dataclass
class OptimizerConfig:
    """How the gradient changes the parameters, and the learning rate over time."""

    name: str = "sgd"  # sgd | adamw | lion
    learning_rate: float = 0.05
    momentum: float = 0.9  # name: sgd
    nesterov: bool = False
    b1: float | None = None  # name: adamw and lion
    b2: float | None = None
    weight_decay: float = 0.0
    decay_vectors: bool = True  # biases and normalisation decay too
    ema_decay: float | None = None  # average of the parameters, used to evaluate
    schedule: str = "cosine"  # cosine | exponential | step | constant
    per_epoch: bool = False  # hold the learning rate within an epoch
    decay_rate: float = 0.97  # schedules exponential and step: the factor
    decay_epochs: tuple[float, ...] = ()  # schedule step: when it decays
    warmup_epochs: float = 0.0
    clip_norm: float | None = None  # global norm of the gradient
    backbone_rate: float = 1.0  # times the learning rate, below the last layer
    head_epochs: float = 0.0  # the last layer learns alone for so long


@dataclasses.dataclass
class SeedsConfig:
    """Seeds of single sources of randomness; ``None`` derives one from ``seed``."""

    initialization: int | None = None
    data_order: int | None = None
    augmentation: int | None = None
    loss: int | None = None  # losses that draw random numbers


@dataclasses.dataclass
class TrainConfig:
    """Everything that decides the outcome of a run."""

    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = dataclasses.field(
        default_factory=AugmentationConfig
    )
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    seeds: SeedsConfig = dataclasses.field(default_factory=SeedsConfig)
    seed: int = 0
    num_epochs: int = 60
    batch_size: int = 64
    eval_batch_size: int = 500
    eval_every: int = 1  # epochs
    train_eval_size: int | None = None  # training examples evaluated; 0: none
    checkpoint_every: int = 10  # epochs; the last is always kept
    keep_checkpoints: int = 2
    parallel: str = "jit"  # jit | pmap
    model_devices: int = 1  # devices that share the last layer's classes (jit)
    precision: str = "float32"  # float32 | bfloat16
    on_nonfinite: str = "stop"  # stop | skip


def plain(config: TrainConfig) -> dict[str, Any]:
    """Returns a configuration as JSON holds it, which is what a run keeps of it.

    Example:
      >>> plain(TrainConfig(seed=3))["seed"]
      3
    """
    return json.loads(json.dumps(dataclasses.asdict(config), default=vars))


def config_of(values: Mapping[str, Any]) -> TrainConfig | None:
    """Returns the configuration that a run's ``config.json`` holds.

    Returns ``None`` for a run of objects, which has no configuration. A field that
    an earlier version did not write has its default.

    Raises:
      InputError: a field that this version does not know.

    Example:
      >>> config_of(plain(TrainConfig(seed=3))) == TrainConfig(seed=3)
      True
      >>> config_of({"objects": {}}) is None
      True
    """
    return None if "objects" in values else _filled(TrainConfig, values)


def _filled(kind: Any, values: Mapping[str, Any]) -> Any:
    if kind is LossConfig:
        return LossConfig(**values)
    kinds = get_type_hints(kind)
    unknown = sorted(values.keys() - kinds.keys())
    if unknown:
        raise InputError(
            f"the run's configuration has the field {unknown[0]!r}, which this version "
            "does not know: expected a run of this version or an earlier one; use the "
            "version that made it"
        )
    given = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = _filled(kinds[name], value)
        given[name] = tuple(value) if isinstance(value, list) else value
    return kind(**given)
