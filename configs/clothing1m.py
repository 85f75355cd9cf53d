r"""Clothing1M: a million clothes of 14 classes, labelled by the text around them.

    python train.py --config=configs/clothing1m.py \
        --config.dataset.data_dir=CLOTHING1M_DIRECTORY \
        --config.dataset.train_path=train.csv --config.dataset.test_path=test.csv

This reproduces nothing: no recipe for this set was released with Dynamics-Aware Loss,
and the usual one starts from a network trained on ImageNet, which a config cannot load.
It is the mini-WebVision recipe, from scratch, with a cosine over 30 epochs (58,600
steps of 512 images): a place to start. Make the two lists from the set's own files once
(docs/recipes.md has the commands).

Accuracy: none is known. Time: not measured; meant for several GPUs with
``--config.precision=bfloat16``.
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
    """Returns a run on Clothing1M from scratch."""
    return TrainConfig(
        dataset=DatasetConfig(name="list", image_size=256),
        noise=NoiseConfig(kind="none"),
        loss=LossConfig(name="dal", preset="webvision", per_epoch=True),
        model=ModelConfig(name="resnet50"),
        augmentation=AugmentationConfig(
            random_resized_crop=224,
            flip=True,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        optimizer=OptimizerConfig(
            learning_rate=0.4,
            momentum=0.9,
            nesterov=True,
            weight_decay=3e-5,
            schedule="cosine",
            warmup_epochs=1,
            clip_norm=5.0,
        ),
        num_epochs=30,
        batch_size=512,
        # An evaluation decodes the million training images once more.
        eval_every=5,
        checkpoint_every=1,
    )


def get_sweeps() -> dict[str, tuple[str, ...]]:
    """Returns sweeps for ``dal-jax compare --sweep=NAME``."""
    return {
        "q": ("loss.q_start:0.2,0.4,0.6,0.8", "loss.q_end:1.2,1.5,2,3"),
        # The hyper-parameters that were published for each data set.
        "presets": ("loss.preset:cifar10,cifar100,webvision",),
    }
