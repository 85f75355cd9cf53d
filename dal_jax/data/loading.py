"""From a :class:`DatasetConfig` to a data set: the one door to every source."""

from collections.abc import Callable

from dal_jax.data import digits
from dal_jax.data.split import Dataset
from dal_jax.errors import unknown_name
from dal_jax.training.config import DatasetConfig

_SOURCES: dict[str, Callable[[DatasetConfig], Dataset]] = {
    "digits": lambda config: digits.load(),
}


def names() -> tuple[str, ...]:
    """Returns the name of every data source."""
    return tuple(_SOURCES)


def load(config: DatasetConfig) -> Dataset:
    """Returns the data set that a configuration describes.

    Args:
      config: the source's name and options, see ``docs/data.md``.

    Returns:
      The data set, its images in memory or streamed.

    Raises:
      InputError: if the configuration or the data cannot be used; the line says what
        is wrong, what was expected and what to do.

    Example:
      >>> dataset = load(DatasetConfig(name="digits"))
      >>> len(dataset.train), dataset.class_names[:3]
      (1297, ('0', '1', '2'))
    """
    if config.name not in _SOURCES:
        raise unknown_name("dataset", config.name, names())
    return _SOURCES[config.name](config)
