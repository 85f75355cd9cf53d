"""Your own images, one directory per class, with whatever wrong labels they have.

    python train.py --config=configs/folder.py --config.dataset.data_dir=photos

The given label of ``photos/train/ant/1.jpg`` is ant, which may be wrong. If you have a
``photos/test`` with labels that you trust, the run reports a test accuracy. A tenth of
the training images, with their given labels, is held out so that you can choose
hyper-parameters. For a CSV file of paths and labels, set ``--config.dataset.name=list``
and ``--config.dataset.train_path``.

Images are scaled and cropped to 64x64 pixels; ``--config.dataset.image_size`` sets
another size. From about 128 pixels, ``--config.model.name=resnet50`` is the better
network. On a CPU, ``--config.model.name=cnn`` does about a hundredth of the arithmetic.
Accuracy and time depend on your data.
"""

from dal_jax.config import (
    AugmentationConfig,
    DatasetConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> TrainConfig:
    """Returns a run on a folder of images."""
    return TrainConfig(
        dataset=DatasetConfig(name="folder", image_size=64, validation_fraction=0.1),
        noise=NoiseConfig(kind="none"),
        loss=LossConfig(name="dal", per_epoch=False),
        model=ModelConfig(name="resnet18"),
        augmentation=AugmentationConfig(crop_padding=8, flip=True),
        optimizer=OptimizerConfig(learning_rate=0.02, weight_decay=5e-4),
        num_epochs=100,
    )
