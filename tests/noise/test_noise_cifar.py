"""The published CIFAR labels, where their files are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from dal_jax import data, noise
from dal_jax.config import DatasetConfig
from dal_jax.errors import InputError
from dal_jax.noise.class_maps import CIFAR100_COARSE

SHARED = Path(
    os.environ.get("DAL_JAX_SHARED", Path(__file__).parents[2] / ".." / "shared")
)
LABELS = SHARED / "data" / "labels"
OFFICIAL = LABELS / "dal_official"
TFDS = SHARED / "data" / "tfds"

needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="no label files here")
needs_images = pytest.mark.skipif(not TFDS.is_dir(), reason="no CIFAR-10 here")


@pytest.fixture(scope="module")
def clean10():
    return np.load(LABELS / "cifar10n" / "clean_label.npy")


@pytest.fixture(scope="module")
def clean100():
    return np.load(LABELS / "cifar100n" / "clean_label.npy")


def apply(kind, clean, **options):
    num_classes = int(clean.max()) + 1
    return noise.apply(
        kind, clean, num_classes=num_classes, clean_labels=clean, **options
    )


@needs_labels
@pytest.mark.parametrize(
    ("path", "rate"),
    [
        (OFFICIAL / "symmetric" / "cifar10_40.npy", 0.36216),
        (OFFICIAL / "asymmetric" / "cifar10_40.npy", 0.20286),
        (OFFICIAL / "instance" / "cifar10_40.npy", 0.4029),
        (LABELS / "cifar10n" / "worse_label.npy", 0.40208),
        (LABELS / "cifar10n" / "random_label1.npy", 0.17234),
    ],
    ids=["symmetric", "asymmetric", "instance", "worst", "random1"],
)
def test_realised_rates_of_cifar10(clean10, path, rate):
    assert apply("file", clean10, path=path).realised_rate == pytest.approx(rate)


@needs_labels
@pytest.mark.parametrize(
    ("path", "rate"),
    [
        (OFFICIAL / "asymmetric" / "cifar100_40.npy", 0.40144),
        (LABELS / "cifar100n" / "noisy_label.npy", 0.402),
    ],
    ids=["asymmetric", "human"],
)
def test_realised_rates_of_cifar100(clean100, path, rate):
    assert apply("file", clean100, path=path).realised_rate == pytest.approx(rate)


@needs_labels
def test_the_superclasses_are_those_of_the_data_set(clean100):
    coarse = np.load(LABELS / "cifar100n" / "clean_coarse_label.npy")
    np.testing.assert_array_equal(CIFAR100_COARSE[clean100], coarse)


@needs_labels
@pytest.mark.parametrize("classes", ["cifar10", "cifar100"])
def test_the_class_maps_are_those_of_the_released_labels(classes, request):
    clean = request.getfixturevalue(f"clean{classes.removeprefix('cifar')}")
    released = np.load(OFFICIAL / "asymmetric" / f"{classes}_40.npy")
    wrong = released != clean
    np.testing.assert_array_equal(
        released[wrong], noise.CLASS_MAPS[classes][clean[wrong]]
    )
    moving = noise.CLASS_MAPS[classes] != np.arange(clean.max() + 1)
    assert set(np.unique(clean[wrong])) == set(np.flatnonzero(moving))


@needs_labels
@pytest.mark.parametrize("classes", ["10", "100"])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_our_noise_has_the_rate_of_the_released_labels(kind, classes, request):
    clean = request.getfixturevalue(f"clean{classes}")
    class_map = f"cifar{classes}" if kind == "asymmetric" else None
    ours = apply(kind, clean, rate=0.4, class_map=class_map)
    released = apply("file", clean, path=OFFICIAL / kind / f"cifar{classes}_40.npy")
    assert ours.realised_rate == pytest.approx(released.realised_rate, abs=0.015)


@needs_labels
def test_released_labels_in_storage_order_are_refused(clean10):
    order = np.random.default_rng(0).permutation(50_000)
    with pytest.raises(InputError, match="as shuffled labels would"):
        apply(
            "file",
            clean10[order],
            path=OFFICIAL / "instance" / "cifar10_40.npy",
        )


@needs_labels
@needs_images
@pytest.mark.slow
def test_instance_noise_on_real_images(clean10):
    """The pixel scaling decides how a class's wrong labels spread."""
    config = DatasetConfig(
        name="tfds",
        tfds_name="cifar10",
        data_dir=str(TFDS),
        train_size=10_000,
        cache_dir="",
    )
    split = data.load(config).train
    np.testing.assert_array_equal(clean10[split.index], split.labels)

    def concentration(pixel_scaling, seed):
        record = noise.apply(
            "instance",
            split.labels,
            num_classes=10,
            rate=0.4,
            seed=seed,
            clean_labels=split.labels,
            index=split.index,
            images=split.inputs,
            pixel_scaling=pixel_scaling,
        )
        assert record.realised_rate == pytest.approx(0.4, abs=0.02)
        return share_of_most_common(record.transition_matrix)

    for pixel_scaling, share in (("raw", 0.7), ("unit", 0.7), ("standardized", 0.27)):
        mean = np.mean([concentration(pixel_scaling, seed) for seed in range(3)])
        assert mean == pytest.approx(share, abs=0.08), pixel_scaling
    released = apply("file", clean10, path=OFFICIAL / "instance" / "cifar10_40.npy")
    assert share_of_most_common(released.transition_matrix) == pytest.approx(
        0.48, abs=0.005
    )


def share_of_most_common(transition_matrix):
    wrong = transition_matrix * (1 - np.eye(len(transition_matrix)))
    return np.mean(wrong.max(axis=1) / wrong.sum(axis=1))
