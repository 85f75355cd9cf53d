r"""mini-WebVision: the first 50 classes of WebVision 1.0, with the noise they have.

    python train.py --config=configs/webvision_mini.py \
        --config.dataset.data_dir=WEBVISION_DIRECTORY \
        --config.dataset.train_path=train.csv --config.dataset.test_path=test.csv

This is the mini-WebVision recipe of Li et al. (2023), arXiv:2303.11562: ResNet-50 at
224 pixels, 250 epochs in batches of 512 (the paper used four GPUs with 128 each), and q
from 0.4 towards 1.5 once per epoch. It trains on the images from Google and tests on
WebVision's validation set. Make the two lists from WebVision's own files once
(docs/recipes.md has the commands). If your copy has one directory per class, use
``--config.dataset.name=folder`` and two directories instead of the lists.
docs/recipes.md lists every difference from the released code.

Accuracy: not measured here; see the paper's tables. Time: not measured; meant for
several GPUs with ``--config.precision=bfloat16``. They share the batch, batch norm
included, without any change to this file.
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
    """Returns the released mini-WebVision recipe."""
    return TrainConfig(
        dataset=DatasetConfig(name="list", max_classes=50, image_size=256),
        noise=NoiseConfig(kind="none"),
        loss=LossConfig(name="dal", preset="webvision", per_epoch=True),
        model=ModelConfig(name="resnet50"),
        augmentation=AugmentationConfig(
            random_resized_crop=224,
            flip=True,
            color_jitter=(0.4, 0.4, 0.4, 0.2),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        optimizer=OptimizerConfig(
            learning_rate=0.4,
            momentum=0.9,
            nesterov=True,
            weight_decay=3e-5,
            schedule="exponential",
            decay_rate=0.97,
            per_epoch=True,
            clip_norm=5.0,
        ),
        num_epochs=250,
        batch_size=512,
        # An evaluation decodes the training images once more.
        eval_every=5,
    )


def get_sweeps() -> dict[str, tuple[str, ...]]:
    """Returns sweeps for ``dal-jax compare --sweep=NAME``."""
    return {
        "q": ("loss.q_start:0.2,0.4,0.6,0.8", "loss.q_end:1.2,1.5,2,3"),
        # The hyper-parameters that were published for each data set.
        "presets": ("loss.preset:cifar10,cifar100,webvision",),
    }
