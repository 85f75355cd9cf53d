"""Classes drawn evenly: how often each example comes, and when."""

import numpy as np
import pytest

from dal_jax.data.balance import balanced_order

SIZES = (60, 3, 12, 1, 0, 7)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), SIZES))
BATCH, STEPS = 10, 9  # 83 examples


def draws(epochs, seed=0, labels=LABELS):
    orders = [balanced_order(seed, epoch, labels, BATCH) for epoch in epochs]
    return np.concatenate(orders)


def test_an_epoch_is_as_long_as_any_other():
    order = draws([3])
    assert order.shape == (STEPS, BATCH)
    assert order.dtype == np.int32


def test_classes_come_equally_often_in_every_batch_and_over_the_run():
    order = draws(range(7))
    present = [0, 1, 2, 3, 5]
    for row in order:
        counts = np.bincount(LABELS[row], minlength=6)
        assert counts[4] == 0
        assert set(counts[present]) == {2}  # 10 over 5 classes
    # Seven steps of 13 are no multiple of the four classes.
    labels = np.arange(83) % 5 % 4
    for until in range(1, 10):
        of_epochs = [balanced_order(0, epoch, labels, 13) for epoch in range(until)]
        counts = np.bincount(labels[np.concatenate(of_epochs).ravel()])
        assert counts.max() - counts.min() <= 1


def test_an_example_waits_for_all_others_of_its_class():
    """Over any number of epochs; rare ones come often, and frequent ones not."""
    for epochs in range(1, 8):
        times = np.bincount(draws(range(epochs)).ravel(), minlength=len(LABELS))
        for k in (0, 1, 2, 3, 5):
            of_class = times[k == LABELS]
            assert of_class.max() - of_class.min() <= 1
    assert times[LABELS == 0].min() == 2
    assert times[LABELS == 3] == 2 * STEPS * 7


def test_the_order_of_passes_differs():
    of_class = np.flatnonzero(LABELS == 5)
    drawn = draws(range(7))
    turns = drawn[np.isin(drawn, of_class)]
    first, second = turns[:7], turns[7:14]
    assert (first != second).any()


def test_an_order_is_that_of_its_seed_and_epoch():
    np.testing.assert_array_equal(draws([5]), draws([5]))
    np.testing.assert_array_equal(draws([4, 5])[STEPS:], draws([5]))
    assert (draws([5]) != draws([4])).any()
    assert (draws([5]) != draws([5], seed=1)).any()


@pytest.mark.parametrize("k", range(10))
def test_places_in_a_batch_are_no_class_s_own(k):
    """Else mixup would always mix the same classes."""
    labels = np.arange(1000) % 10
    order = np.concatenate([balanced_order(0, e, labels, 10) for e in range(4)])
    places = np.nonzero(labels[order] == k)[1]
    assert np.bincount(places, minlength=10).min() > 15  # 40 on average
