"""From a configuration to its network: by name, from weights, with a frozen backbone.

Part of the recipe. What a file of weights decides is filled into the configuration once
(:func:`filled_in`), so that ``config.json`` holds it, and a run that has begun does not
need the file again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from dal_jax import models
from dal_jax.config import AugmentationConfig, ModelConfig, TrainConfig
from dal_jax.errors import InputError, unknown_name
from dal_jax.seeds import jax_key
from dal_jax.training.parallel import axis_name

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_FROZEN = ("backbone",)


def check(config: TrainConfig) -> None:
    """Raises InputError for what is wrong with a network whatever its weights."""
    model, optimizer = config.model, config.optimizer
    own = models.options(model.name)  # is it a name?
    for option in ("channels", "hidden"):
        for size in getattr(model, option):
            if size < 1:
                raise InputError(
                    f"model.{option}={size} is out of range: expected at least 1; "
                    f"give another --config.model.{option}"
                )
    for option in ("remat", "small_images", "layer_norm", "dropout"):
        if getattr(model, option) and option not in own:
            raise InputError(
                f"model.{option} does not fit model.name={model.name}: expected a "
                f"network that has it; leave --config.model.{option} out"
            )
    if model.freeze is not None and model.freeze not in _FROZEN:
        raise unknown_name("model.freeze", model.freeze, _FROZEN)
    if model.freeze and model.weights is None:
        raise InputError(
            "model.freeze without model.weights would leave the backbone random: "
            "expected a file of weights; give --config.model.weights, or train all"
        )
    if model.freeze and (optimizer.backbone_rate != 1 or optimizer.head_epochs):
        raise InputError(
            "optimizer.backbone_rate and optimizer.head_epochs have no use with "
            "model.freeze=backbone: expected one or the other; leave these out"
        )
    augmentation = config.augmentation
    if augmentation.normalization is not None:
        models.normalization(augmentation.normalization)  # is it a name?
        if augmentation.mean or augmentation.std:
            raise InputError(
                f"augmentation.normalization={augmentation.normalization} and "
                "augmentation.mean and std are given: expected one of them; leave the "
                "other out"
            )


def filled_in(
    config: TrainConfig,
    begun: TrainConfig | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainConfig:
    """Returns a configuration with what its file of weights decides filled in.

    That is the file's digest, the form of a ResNet's stem and, if nothing is said of
    it, how pixels are normalised.

    Args:
      config: with or without ``model.weights``.
      begun: that of a run that has a checkpoint. If the file is gone, what it decided
        is taken from there.
      say: told in a line what a run that begins makes of the file.

    Raises:
      InputError: the file cannot be read, is of another network, or is not the one
        that ``model.weights_sha256`` names.
    """
    model, augmentation = config.model, config.augmentation
    path, stem = model.weights, model.small_images
    if path is None:
        return config
    if begun is not None and not Path(path).exists():
        sha256, small_images = begun.model.weights_sha256, begun.model.small_images
        constants, num_classes = (begun.augmentation.mean, begun.augmentation.std), None
    else:
        found = models.describe_weights(model.name, path, **_options(model))
        sha256, num_classes, small_images, normalization = found
        constants = normalization or ((), ())
    if model.weights_sha256 not in (None, sha256):
        raise InputError(
            f"weights {path} have the SHA-256 {sha256}: expected that of "
            f"model.weights_sha256, {model.weights_sha256}; bring that file back, or "
            "leave --config.model.weights_sha256 out"
        )
    if not (augmentation.normalization or augmentation.mean or augmentation.std):
        mean, std = constants
        augmentation = dataclasses.replace(augmentation, mean=mean, std=std)
    model = dataclasses.replace(
        model,
        weights_sha256=sha256,
        small_images=small_images if stem is None else stem,
    )
    if begun is None:
        say(_line(path, num_classes, augmentation))
    return dataclasses.replace(config, model=model, augmentation=augmentation)


def _line(path: str, num_classes: int | None, pixels: AugmentationConfig) -> str:
    head = f"its last layer is kept if the data have {num_classes} classes, too"
    if num_classes is None:
        head = "it has no last layer"
    normalised = pixels.normalization or (
        f"mean {_numbers(pixels.mean)} and deviation {_numbers(pixels.std)}"
        if pixels.mean
        else "the training images' own mean and deviation"
    )
    return f"weights {path}: {head}; pixels are normalised by {normalised}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def make(
    config: TrainConfig,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    read_weights: bool = True,
) -> Any:
    """Returns the network, in a form that :func:`dal_jax.training.fit` takes.

    Args:
      config: as :func:`filled_in` returned it.
      input_shape: of one example.
      num_classes: of the data; a file's last layer of another number is made anew.
      read_weights: whether to start from ``model.weights``; ``False`` is for a run
        whose parameters come from a checkpoint.
    """
    augmentation = config.augmentation
    side = augmentation.random_resized_crop or augmentation.random_crop
    shape = (*input_shape,) if side is None else (side, side, input_shape[-1])
    create = functools.partial(
        models.create,
        config.model.name,
        image_shape=shape,
        num_classes=num_classes,
        dtype=PRECISIONS[config.precision],
        axis_name=axis_name(config.parallel),
        **_options(config.model),
    )

    def network(rngs: Any) -> Any:
        return create(rngs=rngs)

    if config.model.weights is not None and read_weights:
        seed = config.seeds.initialization
        key = jax_key(config.seed if seed is None else seed, "initialization")
        network = create(weights=config.model.weights, rngs=key)
    if config.model.freeze is None:
        return network
    return models.freeze_backbone(models.functionalize(network))


def _options(config: ModelConfig) -> dict[str, Any]:
    """The fields that the network has as options, but for those left to it."""
    fields = vars(config)
    own = (name for name in models.options(config.name) if name in fields)
    return {name: fields[name] for name in own if fields[name] is not None}
