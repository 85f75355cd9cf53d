"""Features that another model computed, or any table of numbers, and their labels.

    python train.py --config=configs/features.py
        --config.dataset.train_path=features.npy
        --config.dataset.train_labels=labels.npy
    dal-jax audit --workdir=runs/features

The file of the features may be an .npy, an .npz with ``inputs`` and ``labels``, or a
.parquet (docs/data.md); ``dal-jax embed`` makes one from images. It is read from disk a
batch at a time. Features are standardised by the training set's statistics, an MLP of
one hidden layer of 256 units trains for 5 epochs with the given labels, and a hundredth
of these is held out. With ``dataset.test_path`` the run reports a test accuracy. For
another loss, add ``--config.loss.q_start=None``.

Accuracy and time depend on the data. A million made-up vectors of 512 numbers and 100
classes, 40 % labelled wrong: test accuracy 0.753 (cross entropy 0.748), where knowing
the classes' means gives 0.794; the audit's AUROC 0.989. On two cores 102 s for the run,
its start and report included, and 27 s for the audit; 2.6 GB and 1.3 GB
(``benchmarks/features.py``, seed 0; benchmarks/results/features-cpu.md).
"""

from dal_jax.config import (
    DatasetConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> TrainConfig:
    """Returns a run on features."""
    return TrainConfig(
        dataset=DatasetConfig(
            name="arrays", standardize=True, validation_fraction=0.01, storage="stream"
        ),
        noise=NoiseConfig(kind="none"),
        loss=LossConfig(name="dal", per_epoch=False, q_start=0.4),
        model=ModelConfig(name="mlp", hidden=(256,)),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=1e-4),
        num_epochs=5,
        batch_size=1024,
        eval_batch_size=8192,
        train_eval_size=50_000,
    )
