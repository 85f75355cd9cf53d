r"""Clothing1M: a million clothes of 14 classes, labelled by the text around them.

    python train.py --config=configs/clothing1m.py \
        --config.dataset.data_dir=CLOTHING1M_DIRECTORY \
        --config.dataset.train_path=train.csv --config.dataset.test_path=test.csv \
        --config.model.weights=resnet50.safetensors

The usual comparison on this set: ResNet-50 from ImageNet weights. No recipe for it was
released with Dynamics-Aware Loss. The training is that of the released code of
early-learning regularisation (Liu et al., 2020, arXiv:2007.00151;
github.com/shengliu66/ELR: ELR_plus/config_clothing1m.json and its data loader). SGD has
learning rate 0.002, momentum 0.9 and weight decay 1e-3; 15 parts of 3,000 batches of 64
with as many images of each class; a tenth of the rate after the seventh; random crops
of 224 out of 256, and flips. Here that is 3 passes over the million images. It has one
network and neither mixup nor targets kept over time, which belong to that method. The
loss is DAL with WebVision's hyper-parameters. docs/recipes.md says where the weights
and the lists come from, and how this differs.

Accuracy: not measured here. Time: not measured; meant for a GPU with
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
    """Returns a run on Clothing1M from ImageNet weights."""
    return TrainConfig(
        dataset=DatasetConfig(name="list", image_size=256, balance="classes"),
        noise=NoiseConfig(kind="none"),
        loss=LossConfig(name="dal", preset="webvision", per_epoch=False),
        model=ModelConfig(name="resnet50", weights="resnet50.safetensors"),
        augmentation=AugmentationConfig(
            random_crop=224,
            flip=True,
            # The set's own, as in the published recipe.
            mean=(0.6959, 0.6537, 0.6371),
            std=(0.3113, 0.3192, 0.3214),
        ),
        optimizer=OptimizerConfig(
            learning_rate=0.002,
            momentum=0.9,
            weight_decay=1e-3,
            schedule="step",
            decay_rate=0.1,
            decay_epochs=(1.4,),  # 7 of 15 parts
        ),
        num_epochs=3,
        batch_size=64,
        # An evaluation decodes these training images once more.
        train_eval_size=10_000,
        checkpoint_every=1,
    )


def get_sweeps() -> dict[str, tuple[str, ...]]:
    """Returns sweeps for ``dal-jax compare --sweep=NAME``."""
    return {
        "q": ("loss.q_start:0.2,0.4,0.6,0.8", "loss.q_end:1.2,1.5,2,3"),
        # The hyper-parameters that were published for each data set.
        "presets": ("loss.preset:cifar10,cifar100,webvision",),
    }
