"""Published CIFAR labels, by the counts that tests/golden keeps of them."""

from pathlib import Path

import numpy as np
import pytest

from dal_jax import noise
from dal_jax.errors import InputError
from dal_jax.noise.class_maps import CIFAR100_COARSE

GOLDEN = Path(__file__).parents[1] / "golden" / "cifar_labels.npz"
COUNTS = dict(np.load(GOLDEN))
SUPERCLASS = COUNTS.pop("cifar100/superclass")
RATES = {
    "cifar10/symmetric": 0.36216,
    "cifar10/asymmetric": 0.20286,
    "cifar10/instance": 0.4029,
    "cifar10/worst": 0.40208,
    "cifar10/random1": 0.17234,
    "cifar100/asymmetric": 0.40144,
    "cifar100/human": 0.402,
}


def labels_of(name):
    """Clean classes and given labels with the published counts, in an order made up."""
    counts = COUNTS[name]
    pairs = np.repeat(np.arange(counts.size), counts.ravel())
    return np.divmod(np.random.default_rng(0).permutation(pairs), len(counts))


def apply(kind, clean, **options):
    return noise.apply(
        kind, clean, num_classes=clean.max() + 1, clean_labels=clean, **options
    )


@pytest.fixture
def released(tmp_path):
    """The clean classes of a published set and a file of its labels."""

    def write(name):
        clean, given = labels_of(name)
        np.save(tmp_path / "labels.npy", given)
        return clean, tmp_path / "labels.npy"

    return write


@pytest.mark.parametrize("name", RATES)
def test_realised_rates_are_those_of_the_documentation(released, name):
    clean, path = released(name)
    record = apply("file", clean, path=path)
    assert record.realised_rate == pytest.approx(RATES[name])
    assert len(clean) == 50_000
    page = (Path(__file__).parents[2] / "docs" / "noise.md").read_text()
    assert f"| {100 * RATES[name]:.3f} % |" in page


def test_the_superclasses_are_those_of_the_data_set():
    np.testing.assert_array_equal(CIFAR100_COARSE, SUPERCLASS)


@pytest.mark.parametrize("classes", ["cifar10", "cifar100"])
def test_the_class_maps_are_those_of_the_released_labels(classes):
    clean, given = labels_of(f"{classes}/asymmetric")
    wrong = given != clean
    np.testing.assert_array_equal(given[wrong], noise.CLASS_MAPS[classes][clean[wrong]])
    moving = noise.CLASS_MAPS[classes] != np.arange(clean.max() + 1)
    assert set(np.unique(clean[wrong])) == set(np.flatnonzero(moving))


@pytest.mark.parametrize("classes", ["cifar10", "cifar100"])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_our_noise_has_the_rate_of_the_released_labels(kind, classes):
    clean, given = labels_of(f"{classes}/{kind}")
    class_map = classes if kind == "asymmetric" else None
    ours = apply(kind, clean, rate=0.4, class_map=class_map)
    assert ours.realised_rate == pytest.approx(np.mean(given != clean), abs=0.015)


def test_released_labels_in_storage_order_are_refused(released):
    clean, path = released("cifar10/instance")
    order = np.random.default_rng(1).permutation(50_000)
    with pytest.raises(InputError, match="as shuffled labels would"):
        apply("file", clean[order], path=path)


def test_share_of_the_most_common_wrong_label_is_that_of_the_documentation(released):
    clean, path = released("cifar10/instance")
    matrix = apply("file", clean, path=path).transition_matrix
    np.fill_diagonal(matrix, 0)
    share = np.mean(matrix.max(axis=1) / matrix.sum(axis=1))
    page = (Path(__file__).parents[2] / "docs" / "noise.md").read_text()
    assert f"| the released file | {f'{share:.3f}'.lstrip('0')} |" in page
