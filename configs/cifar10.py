r"""CIFAR-10 as the released code of Dynamics-Aware Loss trains it.

    python train.py --config=configs/cifar10.py \
        --config.dataset.data_dir=TFDS_DIRECTORY \
        --config.noise.kind=file --config.noise.path=cifar10_40.npy

This is the CIFAR recipe of Li et al. (2023), arXiv:2303.11562: ResNet-18 with a 3x3
stem, 150 epochs in batches of 128, SGD with a cosine learning rate, crops and flips,
and q from 0.6 towards 1.5 once per epoch. The label file is one of those released with
the paper, in the original order. Without the last two flags, the run draws 40 %
symmetric noise itself. ``--config.noise.kind=instance`` and ``asymmetric`` draw the
other two. docs/recipes.md lists every difference from the released code.

Accuracy: on the released symmetric labels, one seed, stopped after 147 of the 150
epochs: .847, and cross entropy .652 (benchmarks/results/cifar10_h200.md). Time: 2.4 s
an epoch on an H200 that trained two such runs at once, with
``--config.precision=bfloat16``. ``benchmarks/cifar_gpu.py`` measures both. On two CPU
cores it would take days; use ``configs/cifar10_small.py`` there.
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
    """Returns the released CIFAR-10 recipe."""
    return TrainConfig(
        dataset=DatasetConfig(name="tfds", tfds_name="cifar10"),
        loss=LossConfig(name="dal", preset="cifar10", per_epoch=True),
        model=ModelConfig(name="resnet18"),
        augmentation=AugmentationConfig(
            crop_padding=4,
            flip=True,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
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
