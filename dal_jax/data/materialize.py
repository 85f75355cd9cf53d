"""Decides whether a split lives in memory or is streamed, and decodes it once.

Every image is decoded before a run starts, streamed or not, so that an unreadable image
cannot stop a run on its second day. The result is cached on disk: the pixels of a split
in memory, or the list of unreadable images of a streamed one.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dal_jax.data import cache
from dal_jax.data.batches import cores, import_grain
from dal_jax.data.images import ArrayImages, EncodedImages, decode_into, stack
from dal_jax.data.split import Split, Subset
from dal_jax.errors import InputError
from dal_jax.progress import progress_bar

# storage="auto" keeps a split in memory up to this many decoded bytes.
MEMORY_LIMIT = 2 * 2**30

# Images decoded by one thread at a time.
_CHUNK = 64

# Below this many pixels most time is spent in Python, where threads wait for each
# other: two threads took 1.3 times as long as one at 32 x 32, and 0.52 times at 256 x
# 256.
_PIXELS_WORTH_A_THREAD = 64 * 64


def materialize(
    split: Split,
    label: str,
    *,
    storage: str = "auto",
    on_unreadable: str = "stop",
    cache_dir: Path | None = None,
) -> tuple[Split, tuple[str, ...]]:
    """Returns a split whose inputs are in memory or known to decode when streamed.

    Args:
      split: its inputs are an array, a source, or images that are still encoded
        (:class:`EncodedImages`), or a subset of these.
      label: what messages and the progress bar call it, e.g. ``"train"``.
      storage: ``"memory"``, ``"stream"``, or ``"auto"``: memory if the decoded inputs
        take at most ``MEMORY_LIMIT`` bytes.
      on_unreadable: ``"stop"`` or ``"skip"``.
      cache_dir: where decoded images are kept; None keeps none.

    Returns:
      The split, less its unreadable images, and the names of those.

    Raises:
      InputError: if images do not decode and are not to be skipped, if all fail, or
        if sizes differ; or what streams is not installed.
    """
    size = len(split) * math.prod(split.input_shape) * split.input_dtype.itemsize
    in_memory = storage == "memory" or (storage == "auto" and size <= MEMORY_LIMIT)
    if not in_memory:
        import_grain()
    images, positions = split.inputs, np.arange(len(split))
    if isinstance(images, Subset):
        images, positions = images.source, images.positions
    if not isinstance(images, EncodedImages):
        return _place_numbers(split, in_memory), ()
    if isinstance(images, ArrayImages) and not in_memory:
        return split, ()  # nothing there can fail to decode
    if isinstance(images, ArrayImages) and images.array.shape[1:] == images.shape:
        all_there = np.array_equal(positions, np.arange(len(images)))
        # If the split is kept in memory, a mapped file counts as an array.
        pixels = np.asarray(images.array)
        pixels = pixels if all_there else pixels[positions]
        return dataclasses.replace(split, inputs=pixels), ()

    entry = cache.key(
        images=images.fingerprint(positions),
        positions=hashlib.sha256(positions.tobytes()).hexdigest(),
        channels=images.channels,
        image_size=images.image_size,
        content="pixels" if in_memory else "check",
    )
    found = cache.read(cache_dir, entry)
    if found is not None:
        arrays, failures = found
    else:
        arrays, failures = _decode_all(images, positions, label, keep=in_memory)
    if failures and (on_unreadable == "stop" or len(failures) == len(positions)):
        _refuse(failures, images, positions, label)
    if found is None:
        cache.write(cache_dir, entry, arrays, failures)

    failed = {row for row, _ in failures}
    kept = np.array([row for row in range(len(split)) if row not in failed], np.int64)
    skipped = tuple(images.name(int(positions[row])) for row, _ in failures)
    if in_memory:
        pixels = arrays["images"].view(np.ndarray)
        whole = dataclasses.replace(split, inputs=pixels)
        return (whole.take(kept) if failures else whole), skipped
    return (split.take(kept) if failures else split), skipped


def _place_numbers(split: Split, in_memory: bool) -> Split:
    """Returns a split of inputs that need no decoding, as an array or as a source."""
    inputs = split.inputs
    if in_memory and isinstance(inputs, np.ndarray):
        inputs = np.asarray(inputs)  # also where it is mapped from a file
    elif in_memory:
        inputs = stack(inputs, np.arange(len(split)))
    elif isinstance(inputs, np.ndarray):
        inputs = Subset(inputs, np.arange(len(split)))
    return dataclasses.replace(split, inputs=inputs)


def _decode_all(
    images: EncodedImages, positions: np.ndarray, label: str, *, keep: bool
) -> tuple[dict[str, np.ndarray], list[tuple[int, str]]]:
    """Returns the pixels if they are to be kept, and ``(row, reason)`` of failures."""
    pixels = np.zeros((len(positions) if keep else 0, *images.shape), np.uint8)

    def decode_chunk(start: int) -> list[tuple[int, str]]:
        chunk = positions[start : start + _CHUNK]
        if keep:
            out = pixels[start : start + _CHUNK]
        else:
            out = np.empty((len(chunk), *images.shape), np.uint8)
        failures = decode_into(out, images, chunk)
        return [(start + row, str(reason)) for row, reason in failures]

    threads = cores() if _worth_threads(images) else 1
    starts = range(0, len(positions), _CHUNK)
    failures: list[tuple[int, str]] = []
    # disable=None: no bar if the output is not a terminal.
    with progress_bar(
        total=len(positions),
        desc=f"decoding {label}",
        unit="image",
        disable=None,
        leave=False,
    ) as bar:
        for chunk_failures in _ordered_map(decode_chunk, starts, threads):
            failures += chunk_failures
            bar.update(min(_CHUNK, len(positions) - bar.n))
    return ({"images": pixels} if keep else {}), failures


def _ordered_map(function, items, threads: int) -> Iterator:
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(function, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _worth_threads(images: EncodedImages) -> bool:
    height, width, _ = images.shape
    return images.image_size is not None or height * width >= _PIXELS_WORTH_A_THREAD


def _refuse(
    failures: list[tuple[int, str]],
    images: EncodedImages,
    positions: np.ndarray,
    label: str,
):
    row, reason = failures[0]
    name = images.name(int(positions[row]))
    advice = "fix or remove them, or set dataset.on_unreadable=skip"
    if len(failures) == len(positions):
        advice = "expected image files that Pillow reads"
    raise InputError(
        f"{len(failures)} of {len(positions)} images in {label} do not decode, the "
        f"first is {name} ({reason}): {advice}"
    )
