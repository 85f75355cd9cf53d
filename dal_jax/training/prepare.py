"""Configuration to data: load the images, make the labels wrong, hold some out.

The noise is applied once, to every training example that is used, before the
validation split is taken: what validates a model has noisy labels too.
"""

import dataclasses

from dal_jax import data, noise
from dal_jax.config import TrainConfig


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
    """

    class_names: tuple[str, ...]
    train: data.Split
    record: noise.NoiseRecord
    validation: data.Split | None
    test: data.Split | None
    skipped: tuple[str, ...] = ()


def prepare(config: TrainConfig) -> Prepared:
    """Loads the data that ``config`` names and applies its noise.

    Raises:
      InputError: whatever is wrong with the data set or the noise asked for.
    """
    dataset = data.load(config.dataset)
    pool = dataset.train
    record = noise.apply(
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
    noisy = dataclasses.replace(pool, labels=record.noisy_labels)
    kept, held_out = data.validation_split(
        len(pool), config.dataset.validation_fraction
    )
    return Prepared(
        class_names=dataset.class_names,
        train=noisy.take(kept) if len(held_out) else noisy,
        record=record.take(kept) if len(held_out) else record,
        validation=noisy.take(held_out) if len(held_out) else None,
        test=dataset.test,
        skipped=dataset.skipped,
    )
