"""Which examples a step sees: every one, in the order of the seed, once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax.data import Split
from dal_jax.training import feed
from dal_jax.training.feed import (
    Pace,
    epoch_order,
    make_runner,
    place_inputs,
    scan_length,
    sequential_order,
)
from dal_jax.training.parallel import make_parallel


def test_an_epoch_has_every_example_once_and_is_filled_up_with_its_first():
    order = epoch_order(0, 3, 10, 4)
    assert order.shape == (3, 4)
    assert order.dtype == np.int32
    flat = order.ravel()
    assert sorted(flat[:10]) == list(range(10))
    assert flat[10:].tolist() == flat[:2].tolist()


@pytest.mark.parametrize("batch", [1, 5, 7, 10])
def test_no_batch_holds_an_example_twice(batch):
    for row in epoch_order(1, 0, 10, batch):
        assert len(set(row)) == batch


def test_an_order_is_that_of_its_seed_and_epoch():
    order = epoch_order(5, 2, 100, 10)
    np.testing.assert_array_equal(order, epoch_order(5, 2, 100, 10))
    assert (order != epoch_order(5, 3, 100, 10)).any()
    assert (order != epoch_order(6, 2, 100, 10)).any()


def test_the_sequential_order_is_padded():
    order = sequential_order(np.arange(5), 3)
    assert order.tolist() == [[0, 1, 2], [3, 4, -1]]
    assert sequential_order(np.arange(6), 3).min() == 0


class Images:
    """Images that are not in memory: image i is filled with i."""

    shape = (2, 2, 1)
    dtype = np.dtype(np.uint8)

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return np.full(self.shape, i, np.uint8)


def make_split(streamed):
    labels = (np.arange(10) * 7 % 3).astype(np.int32)
    images = Images() if streamed else np.stack([Images()[i] for i in range(10)])
    return Split(images, labels, np.arange(10), labels)


@pytest.fixture(params=["resident", "scanned", "streamed"])
def seen(request, monkeypatch):
    """Runs rows of an order and returns what the batch function was given."""
    split = make_split(request.param == "streamed")
    assert split.in_memory == (request.param != "streamed")
    if request.param == "scanned":
        # As on a GPU; the three rows of these orders are a program of two and of one.
        monkeypatch.setattr(feed, "scans", lambda: True)
        monkeypatch.setattr(feed, "_MOST_ROWS", 2)
    parallel = make_parallel("jit", 4)

    def accumulate(context, carry, batch):
        # Counts how often each example came unmasked, and checks what came with it.
        known = batch["mask"]
        position = batch["position"]
        filled = jnp.all(batch["inputs"] == position[:, None, None, None], (1, 2, 3))
        right = filled & (batch["labels"] == position * 7 % 3)
        return {
            "times": carry["times"].at[position].add(known.astype(jnp.int32)),
            "wrong": carry["wrong"] + jnp.sum(known & ~right),
            "last": position,
        }

    run = make_runner(
        parallel,
        place_inputs(parallel, split),
        {"labels": split.labels},
        accumulate,
        rows=3,
    )
    assert run.unit == (2 if request.param == "scanned" else 1)

    def seen(order, *bounds):
        carry = {
            "times": np.zeros(10, np.int32),
            "wrong": np.zeros((), np.int32),
            "last": np.zeros(order.shape[1], np.int32),
        }
        carry = parallel.place_data(carry)
        for first, last in bounds:
            carry = run((), carry, order, first, last)
        return parallel.fetch(carry)

    return seen


def test_an_evaluation_counts_every_example_exactly_once(seen):
    order = sequential_order(np.arange(10), 4)
    result = seen(order, (0, len(order)))
    assert result["times"].tolist() == [1] * 10
    assert result["wrong"] == 0


def test_an_epoch_in_pieces_is_the_same_epoch(seen):
    order = epoch_order(0, 0, 10, 4)
    whole = seen(order, (0, 3))
    pieces = seen(order, (0, 2), (2, 3))
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
    assert whole["times"].sum() == 12
    assert whole["wrong"] == 0
    assert whole["last"].tolist() == order[-1].tolist()


def test_a_resume_begins_in_the_middle(seen):
    order = epoch_order(0, 0, 10, 4)
    rest = seen(order, (2, 3))
    assert rest["times"].sum() == 4
    assert rest["last"].tolist() == order[2].tolist()


def test_no_rows_are_no_steps(seen):
    order = epoch_order(0, 0, 10, 4)
    assert seen(order, (1, 1))["times"].sum() == 0


@pytest.mark.parametrize("rows", [1, 2, 7, 21, 97, 120, 391, 782, 40_037])
def test_a_program_has_few_rows_and_divides_the_order_where_it_can(rows):
    length = scan_length(rows)
    assert 1 <= length <= 50
    divisors = [n for n in range(10, 51) if rows % n == 0]
    assert rows % length == 0 or not divisors
    assert length >= 10 or rows < 10


def paced(pace, seconds_a_row, first, end, clock):
    calls = []
    for begin, last in pace.calls(first, end):
        calls.append((begin, last))
        clock[0] += (last - begin) * seconds_a_row
    return calls


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(feed.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("unit", [1, 7, 23])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.4, 5.0])
def test_calls_follow_one_another_and_begin_at_whole_programs(unit, seconds, clock):
    pace = Pace(unit)
    for begin in (0, 3 * unit, 0):
        calls = paced(pace, seconds, begin, 391, clock)
        assert calls[0][0] == begin
        assert calls[-1][1] == 391
        for (_, last), (following, _) in itertools.pairwise(calls):
            assert following == last
        assert all(first % unit == 0 for first, _ in calls)


def test_calls_grow_to_a_second_and_shrink_when_the_machine_gets_slow(clock):
    pace = Pace()
    lengths = [last - first for first, last in paced(pace, 0.1, 0, 200, clock)]
    assert lengths[:6] == [1, 2, 4, 8, 16, 16]
    slower = [last - first for first, last in paced(pace, 1.0, 0, 200, clock)]
    assert slower[:5] == [16, 8, 4, 2, 2]
