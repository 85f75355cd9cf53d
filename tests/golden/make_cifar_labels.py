"""Makes cifar_labels.npz: how often published CIFAR labels are wrong, and how.

    python tests/golden/make_cifar_labels.py LABELS [TFDS]

LABELS is a directory with the label files that Dynamics-Aware Loss (Li et al., 2023,
arXiv 2303.11562) released, ``dal_official/KIND/cifarK_40.npy``, and those that people
gave (Wei et al., 2022, arXiv 2110.12088), ``cifar10n/`` and ``cifar100n/``: integers
``[50000]`` in the original order of CIFAR. What is kept of each file are counts only:
``[K, K]``, of clean class and given label; and the superclass of each fine class.

With TFDS, a directory that holds CIFAR-10 as ``tfds build`` prepares it, in another
order than the original one, the labels that it gives by index are compared with the
file's, one by one.
"""

import sys
from pathlib import Path

import numpy as np

FILES = {
    "cifar10/symmetric": "dal_official/symmetric/cifar10_40.npy",
    "cifar10/asymmetric": "dal_official/asymmetric/cifar10_40.npy",
    "cifar10/instance": "dal_official/instance/cifar10_40.npy",
    "cifar10/worst": "cifar10n/worse_label.npy",
    "cifar10/random1": "cifar10n/random_label1.npy",
    "cifar100/symmetric": "dal_official/symmetric/cifar100_40.npy",
    "cifar100/asymmetric": "dal_official/asymmetric/cifar100_40.npy",
    "cifar100/human": "cifar100n/noisy_label.npy",
}


def main(labels: Path, tfds: str | None) -> None:
    clean = {
        "cifar10": np.load(labels / "cifar10n" / "clean_label.npy"),
        "cifar100": np.load(labels / "cifar100n" / "clean_label.npy"),
    }
    arrays = {}
    for name, file in FILES.items():
        classes = clean[name.split("/")[0]]
        size = classes.max() + 1
        counts = np.zeros((size, size), np.uint16)
        np.add.at(counts, (classes, np.load(labels / file)), 1)
        arrays[name] = counts
    coarse = np.load(labels / "cifar100n" / "clean_coarse_label.npy")
    superclass = np.zeros(100, np.uint8)
    superclass[clean["cifar100"]] = coarse
    np.testing.assert_array_equal(superclass[clean["cifar100"]], coarse)
    arrays["cifar100/superclass"] = superclass
    np.savez_compressed(Path(__file__).with_name("cifar_labels.npz"), **arrays)
    if tfds is not None:
        compare_with_tfds(clean["cifar10"], tfds)


def compare_with_tfds(clean: np.ndarray, data_dir: str) -> None:
    from dal_jax import data
    from dal_jax.config import DatasetConfig

    train = data.load(
        DatasetConfig("tfds", "cifar10", data_dir, storage="stream", cache_dir="")
    ).train
    assert train.index_is_original
    assert train.source_size == len(clean)
    np.testing.assert_array_equal(clean[train.index], train.labels)
    by_position = np.mean(clean == train.labels)
    print(f"CIFAR-10: labels agree by index; by position {by_position:.1%} would")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
