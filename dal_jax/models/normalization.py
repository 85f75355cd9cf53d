"""Means and deviations of [0, 1] pixels that pretrained weights expect."""

from typing import NamedTuple

from dal_jax.errors import unknown_name


class Normalization(NamedTuple):
    """Images become ``(pixels - mean) / std``, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# imagenet: torchvision's weights, timm's and transformers' ResNets.
# inception: most of timm's vision transformers, and Google's in transformers.
NORMALIZATIONS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def normalization(name: str) -> Normalization:
    """Returns the constants of a name.

    Raises:
      InputError: an unknown name.

    Example:
      >>> normalization("inception").mean
      (0.5, 0.5, 0.5)
    """
    if name not in NORMALIZATIONS:
        raise unknown_name("normalization", name, NORMALIZATIONS)
    return NORMALIZATIONS[name]


def expected_by(family: str, whose: str) -> Normalization | None:
    """Returns what weights of a kind of network most likely expect.

    Args:
      family: a key of :data:`dal_jax.models.weight_names.NAMINGS`.
      whose: the library whose names the file has.

    Example:
      >>> expected_by("vit", "timm") == normalization("inception")
      True
    """
    if family == "resnet" or whose == "torchvision":
        return NORMALIZATIONS["imagenet"]
    return NORMALIZATIONS["inception"] if family == "vit" else None
