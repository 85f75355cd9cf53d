"""From a configuration to what is done to inputs before the network has them.

Part of the recipe: images are augmented and normalised, other numbers standardised or
left as they are.
"""

import dataclasses
from typing import Any

from dal_jax import data, models
from dal_jax.config import AugmentationConfig, TrainConfig
from dal_jax.data import augment
from dal_jax.data.form import InputForm
from dal_jax.data.standardize import feature_statistics, make_standardize
from dal_jax.data.statistics import image_statistics
from dal_jax.errors import InputError
from dal_jax.networks import PRECISIONS


def statistics(config: TrainConfig, train: data.Split) -> tuple[Any, Any]:
    """Returns the mean and deviation that inputs are normalised by.

    They are those that the configuration gives, or those of the training inputs. Both
    are empty for inputs that are no images and are not standardised.

    Raises:
      InputError: ``dataset.standardize`` beside another way, or of images.
    """
    if config.augmentation.normalization is not None:
        return models.normalization(config.augmentation.normalization)
    mean, std = config.augmentation.mean, config.augmentation.std
    is_image = InputForm(train.input_shape, train.input_dtype).is_image
    if config.dataset.standardize and (is_image or mean or std):
        raise InputError(
            "dataset.standardize is for inputs that are no images, in place of "
            "augmentation.mean and augmentation.std: expected one way alone; leave "
            "dataset.standardize out"
        )
    if config.dataset.standardize:
        return feature_statistics(train.inputs)
    if mean or std or not is_image:
        return mean, std
    return image_statistics(train.inputs)


def make(
    config: TrainConfig, form: InputForm, mean: Any, std: Any
) -> augment.Preprocess:
    """Returns what is done to inputs of a form before the network has them.

    Args:
      config: which augmentations, and in which precision.
      form: of the inputs.
      mean: as :func:`statistics` returned it, or as ``preprocessing.json`` holds it.
      std: likewise.

    Raises:
      InputError: numbers that don't fit, or augmentation of inputs that are no images.
    """
    if not form.is_image:
        return _of_numbers(config, form, mean, std)
    _check_normalisation(form, mean, std)
    dtype = PRECISIONS[config.precision]
    preprocess = augment.make_preprocess(config.augmentation, mean, std, dtype)
    # What images are made before they are inputs: None leaves that as it is.
    source = {"size": config.dataset.image_size, "channels": config.dataset.channels}
    return preprocess._replace(description={**source, **preprocess.description})


def _of_numbers(
    config: TrainConfig, form: InputForm, mean: Any, std: Any
) -> augment.Preprocess:
    given = dataclasses.replace(config.augmentation, mean=(), std=(), mixup=0.0)
    for name, default in vars(AugmentationConfig()).items():
        if getattr(given, name) != default:
            raise InputError(
                f"augmentation.{name}={getattr(given, name)} is for images, and the "
                f"inputs are {form.dtype} {['N', *form.shape]}: expected none; leave "
                "it out"
            )
    if mean or std:
        _check_normalisation(form, mean, std)
    preprocess = make_standardize(mean, std, PRECISIONS[config.precision])
    columns = {"columns": list(form.columns)} if form.columns else {}
    return preprocess._replace(description={**preprocess.description, **columns})


def _check_normalisation(form: InputForm, mean: Any, std: Any) -> None:
    channels = form.shape[-1]
    fits = all(len(given) in (1, channels) for given in (mean, std))
    if not fits or min(std) <= 0:
        raise InputError(
            f"augmentation.mean={mean} and augmentation.std={std} do not fit: expected "
            f"both, of one number or of {channels}, std more than 0; give them so, or "
            "neither to measure them"
        )
