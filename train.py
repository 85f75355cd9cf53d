"""The same as ``dal-jax train``; ``python train.py --help`` says what it takes."""

from dal_jax.commands.train import main

if __name__ == "__main__":
    main()
