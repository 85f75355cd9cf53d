"""scikit-learn's digits, 40 % of the training labels wrong, Dynamics-Aware Loss.

    python train.py --config=configs/digits.py

1,297 training and 500 test images of 8x8 pixels, a CNN of 32 and 64 channels, 60
epochs. The README's table has what it reaches and the command that measured it.
"""

from dal_jax.config import TrainConfig


def get_config() -> TrainConfig:
    """Returns the default run."""
    return TrainConfig()
