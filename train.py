"""Trains an image classifier on wrong labels: the configuration says how.

    python train.py [--config=configs/digits.py] [--workdir=runs/digits]
                    [--config.FIELD=VALUE ...] [--overwrite]

The same command again goes on where it stopped; a finished run says so.
"""

from dal_jax.training.command import main

if __name__ == "__main__":
    main(__doc__)
