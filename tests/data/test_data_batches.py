"""Streams give the batches asked for, from any step, by any number of threads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import batches, images
from dal_jax.errors import InputError


@pytest.fixture
def split(tmp_path):
    for n in range(12):
        path = tmp_path / "class" / f"{n:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 4), (n, 0, 0)).save(path)
    config = DatasetConfig(
        name="folder", train_path=str(tmp_path), storage="stream", cache_dir=""
    )
    return data.load(config).train


ORDER = np.random.default_rng(0).integers(0, 12, [20, 3])


def values(stream):
    stream = list(stream)
    for batch in stream:
        assert batch.shape == (3, 4, 5, 3)
        assert batch.dtype == np.uint8
    return [batch[:, 0, 0, 0].tolist() for batch in stream]


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_batches_come_in_the_order_given(split, workers):
    assert values(batches.stream(split, ORDER, workers=workers)) == ORDER.tolist()


def test_any_step_can_be_the_first(split):
    assert values(batches.stream(split, ORDER[7:])) == ORDER[7:].tolist()
    assert values(batches.stream(split, ORDER[20:])) == []


def test_part_of_a_split(split):
    part = split.take(np.arange(11, 5, -1))
    order = ORDER % 6
    assert values(batches.stream(part, order)) == (11 - order).tolist()


def test_inputs_in_memory_stream_as_well():
    tokens = np.arange(24).reshape(12, 2)
    stream = list(batches.stream(data.Split(tokens, tokens), ORDER))
    np.testing.assert_array_equal(stream, tokens[ORDER])


def test_arrays_that_are_converted_stream_as_well(split):
    pixels = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    arrays = images.ArrayImages(3, 2, pixels)
    for batch, row in zip(
        batches.stream(data.Split(arrays, split.labels), ORDER), ORDER, strict=True
    ):
        assert batch[:, 1, 1, 2].tolist() == row.tolist()


def test_stream_left_early_ends(split):
    stream = batches.stream(split, ORDER)
    next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_image_that_no_longer_decodes_is_named(split):
    Path(split.inputs.paths[3]).write_bytes(b"spoilt since")
    with pytest.raises(InputError, match=r"image .*03\.png does not decode \(not an"):
        list(batches.stream(split, np.array([[1, 2], [3, 4]])))


def test_image_that_has_changed_its_size_is_named(split):
    Image.new("RGB", (7, 4)).save(split.inputs.paths[3])
    with pytest.raises(InputError, match=r"03\.png is 7 x 4 pixels, others are 5 x 4"):
        list(batches.stream(split, np.array([[1, 2], [3, 4]])))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (np.arange(3), r"order is int64 \[3\], expected integers"),
        (np.ones([2, 3]), r"order is float64 \[2, 3\], expected integers"),
        (np.array([[0, 12]]), "order has positions 0 to 12, expected 0 to 11"),
        (np.array([[-1, 2]]), "order has positions -1 to 2, expected 0 to 11"),
    ],
)
def test_order_that_does_not_fit_is_refused_before_the_first_batch(
    split, order, message
):
    with pytest.raises(InputError, match=message):
        batches.stream(split, order)
