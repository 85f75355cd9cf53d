"""Makes released.npz: what the released PyTorch code computes, thinned out.

    python tests/golden/make_released.py FIGURES.npz

FIGURES.npz holds values and gradients of each example's loss in float64, computed by
the code that the paper's authors released, its clamps included: losses ce, mae, rce,
nce, gce, sce, nce_rce, taylor_ce, agce, nce_agce, js, ce_sr, bi_tempered and dal, on
normal logits of three scales with 2, 10 and 100 classes. All settings and
hyper-parameters are kept, and of 100 classes the first ten examples. The figures are
theirs; none of their code is here.
"""

import sys
from pathlib import Path

import numpy as np

# Rows of a setting that are kept, by its number of classes.
ROWS = {"K2": 16, "K10": 16, "K100": 10}


def main() -> None:
    """Writes released.npz beside this file."""
    with np.load(sys.argv[1]) as figures:
        kept = {key: figures[key][: ROWS[key.partition("_")[0]]] for key in figures}
    np.savez_compressed(Path(__file__).with_name("released.npz"), **kept)


if __name__ == "__main__":
    main()
