r"""CIFAR-100 as the released code of Dynamics-Aware Loss trains it.

    python train.py --config=configs/cifar100.py \
        --config.dataset.data_dir=TFDS_DIRECTORY \
        --config.noise.kind=file --config.noise.path=cifar100_40.npy

This is the recipe of ``configs/cifar10.py`` for 100 classes. The preset also holds the
hyper-parameters of the other losses in the released comparison, so
``--config.loss.name=sce`` is enough to train with one of them. Without the last two
flags, the run draws 40 % symmetric noise itself; ``--config.noise.kind=asymmetric``
stays within the superclass.

Accuracy: not measured here; see the paper's tables. Time: as ``configs/cifar10.py``.
"""

from dal_jax.config import (
    AugmentationConfig,
    DatasetConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> TrainConfig:
    """Returns the released CIFAR-100 recipe."""
    return TrainConfig(
        dataset=DatasetConfig(name="tfds", tfds_name="cifar100"),
        loss=LossConfig(name="dal", preset="cifar100", per_epoch=True),
        model=ModelConfig(name="resnet18"),
        augmentation=AugmentationConfig(
            crop_padding=4,
            flip=True,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
        ),
        optimizer=OptimizerConfig(
            learning_rate=0.01,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="cosine",
            per_epoch=True,
        ),
        num_epochs=150,
        batch_size=128,
    )


def get_sweeps() -> dict[str, tuple[str, ...]]:
    """Returns sweeps for ``dal-jax compare --sweep=NAME``."""
    return {
        "q": ("loss.q_start:0.2,0.4,0.6,0.8", "loss.q_end:1.2,1.5,2,3"),
        # The hyper-parameters that were published for each data set.
        "presets": ("loss.preset:cifar10,cifar100,webvision",),
    }
