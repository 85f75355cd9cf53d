"""The real CIFAR-10, where it is to be had: order and labels agree with the files."""

import os
from pathlib import Path

import numpy as np
import pytest

from dal_jax import data
from dal_jax.config import DatasetConfig

SHARED = Path(os.environ.get("DAL_JAX_SHARED", Path(__file__).parents[3] / "shared"))

pytestmark = [
    pytest.mark.skipif(
        not (SHARED / "data/tfds/cifar10").is_dir(), reason="CIFAR-10 is not there"
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def train():
    config = DatasetConfig(
        name="tfds",
        tfds_name="cifar10",
        data_dir=str(SHARED / "data/tfds"),
        storage="stream",
        image_size=16,
        train_size=2000,
        test_size=10,
        cache_dir="",
    )
    return data.load(config).train


def labels_of(name):
    return np.load(SHARED / "data/labels" / name, allow_pickle=False)


def test_labels_agree_by_index_alone(train):
    clean = labels_of("cifar10n/clean_label.npy")
    assert train.index_is_original
    assert train.source_size == len(clean) == 50000
    np.testing.assert_array_equal(clean[train.index], train.labels)
    # In storage order they would agree by chance alone.
    assert np.mean(clean[:2000] == train.labels) < 0.2


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("dal_official/symmetric/cifar10_40.npy", 0.36216),
        ("dal_official/asymmetric/cifar10_40.npy", 0.20286),
        ("dal_official/instance/cifar10_40.npy", 0.4029),
        ("cifar10n/worse_label.npy", 0.40208),
        ("cifar10n/random_label1.npy", 0.17234),
    ],
)
def test_noise_files_have_their_known_rate_by_index(train, name, rate):
    noisy = labels_of(name)
    realised = np.mean(noisy[train.index] != train.labels)
    # 2,000 of 50,000: four standard errors.
    assert abs(realised - rate) < 4 * np.sqrt(rate * (1 - rate) / 2000)
