"""Features of a pretrained network for images on disk, in one array file.

Images are taken in blocks that are always the same, so an image's features don't depend
on where the work was stopped, or on how many processes shared it.
"""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax import models
from dal_jax.data.augment import normalize
from dal_jax.data.batches import import_grain, readable
from dal_jax.data.images import MOST_PIXELS, EncodedImages
from dal_jax.data.named import NamedImages, named_images
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.partial import PartialArray
from dal_jax.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Embedding:
    """What is to be made.

    Attributes:
      model: a network's name, one of :func:`dal_jax.models.names`.
      weights: its .safetensors file.
      inputs: a folder of images, a ``.csv`` with a column ``path``, an image, or an
        ``.npy`` or ``.npz`` of uint8 images.
      out: the ``.npy`` to write, float32 ``[N, D]``. Beside it a ``.csv`` of the same
        name has a line a row: ``path``, and ``label`` where labels are known.
      image_size: the side that images are scaled and cropped to.
      channels: 1 or 3.
      normalization: a name of :func:`dal_jax.models.normalization`; None for what
        weights of this kind expect.
      block_size: images that are computed together.
    """

    model: str
    weights: str
    inputs: str
    out: str
    image_size: int = 224
    channels: int = 3
    normalization: str | None = None
    block_size: int = 64

    @property
    def table(self) -> Path:
        """The CSV file of the rows' names."""
        return Path(self.out).with_suffix(".csv")


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What there is now.

    Attributes:
      total: how many images there are.
      missing: how many of them other processes still have to do.
      unreadable: those that have no row, and why, by name; known where none is missing.
    """

    total: int
    missing: int
    unreadable: dict[str, str]


def embed(
    wanted: Embedding,
    *,
    process_id: int = 0,
    num_processes: int = 1,
    progress: bool = False,
) -> Embedded:
    """Computes the features of images, or this process's share of them, and goes on.

    The last process that ends puts the array where it belongs.

    Args:
      wanted: what to make.
      process_id: which of the processes this is, from 0.
      num_processes: how many share the work; another number may go on with it.
      progress: show a progress bar on standard error.

    Raises:
      InputError: before anything is written, what cannot be made; or none of the
        images can be read.
    """
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"process {process_id} of {num_processes}: expected one of 0 to "
            f"{num_processes - 1}; give --process_id and --num_processes"
        )
    out = Path(wanted.out)
    partial = PartialArray(out.with_name(f"{out.name}.partial"))
    _check_out(wanted, partial)
    import_grain()
    named = named_images(wanted.inputs, wanted.channels, wanted.image_size)
    names, images = named.names, named.images
    weights = models.describe_weights(wanted.model, wanted.weights)
    constants = _constants(wanted, weights.normalization)
    features = _feature_function(wanted, constants)
    width = jax.eval_shape(features, _example(wanted)).shape[-1]
    plan = _plan(wanted, images, weights.sha256, constants)
    partial.begin(plan, (len(images), width))
    _compute(wanted, images, features, partial, process_id, num_processes, progress)
    done = partial.done()
    missing = sum(
        min(wanted.block_size, len(images) - first)
        for block, first in enumerate(range(0, len(images), wanted.block_size))
        if block not in done
    )
    unreadable = {int(row): why for note in done.values() for row, why in note.items()}
    if not missing:
        _finish(wanted, partial, named, unreadable)
    left_out = {names[row]: why for row, why in sorted(unreadable.items())}
    return Embedded(len(images), missing, left_out if not missing else {})


def _check_out(wanted: Embedding, partial: PartialArray) -> None:
    out = Path(wanted.out)
    if out.suffix != ".npy":
        raise InputError(f"--out={out}: expected a name that ends in .npy; give one")
    if not out.parent.is_dir():
        raise InputError(
            f"no directory {out.parent}: expected one to write {out.name} to; create "
            "it or give another --out"
        )
    # A kill at the very end leaves one or both of them beside the unfinished work.
    for path in () if partial.exists else (out, wanted.table):
        if path.exists() or path.is_symlink():
            raise InputError(
                f"{path} exists: expected a new file, nothing is overwritten; give "
                "another --out"
            )
    for name, value, most in (
        ("image_size", wanted.image_size, MOST_PIXELS),
        ("batch_size", wanted.block_size, 2**20),
    ):
        if not 1 <= value <= most:
            raise InputError(f"--{name}={value}: expected 1 to {most}; give another")
    if wanted.channels not in (1, 3):
        raise InputError(f"--channels={wanted.channels}: expected 1 or 3")


def _constants(
    wanted: Embedding, of_weights: models.Normalization | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel."""
    named = wanted.normalization
    constants = of_weights if named is None else models.normalization(named)
    if constants is None:
        raise InputError(
            f"weights {wanted.weights} do not tell how pixels are normalised: expected "
            "a name; give --normalization=imagenet or inception"
        )
    if wanted.channels == 1:
        return (sum(constants.mean) / 3,), (sum(constants.std) / 3,)
    return constants


def _feature_function(wanted: Embedding, constants: tuple[Any, Any]) -> Any:
    side = (wanted.image_size, wanted.image_size, wanted.channels)
    # A last layer of the file's, or a new one: neither is used.
    module = models.create(
        wanted.model,
        image_shape=side,
        num_classes=1,
        weights=wanted.weights,
        rngs=jax.random.key(0),
    )
    of_normalised = models.feature_function(module)

    def features(pixels: jax.Array) -> jax.Array:
        unit = jnp.asarray(pixels, jnp.float32) * (1 / 255)
        return of_normalised(normalize(unit, *constants))

    return features


def _example(wanted: Embedding) -> jax.ShapeDtypeStruct:
    side = wanted.image_size
    shape = (wanted.block_size, side, side, wanted.channels)
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def _plan(
    wanted: Embedding, images: EncodedImages, weights: str, constants: tuple[Any, Any]
) -> dict[str, Any]:
    """Returns all that decides the result."""
    mean, std = constants
    return {
        "model": wanted.model,
        "weights": weights,
        "inputs": images.fingerprint(np.arange(len(images))),
        "number of images": len(images),
        "image_size": wanted.image_size,
        "channels": wanted.channels,
        "normalization": {"mean": list(mean), "std": list(std)},
        "block_size": wanted.block_size,
    }


def _compute(
    wanted: Embedding,
    images: EncodedImages,
    features: Any,
    partial: PartialArray,
    process_id: int,
    num_processes: int,
    progress: bool,
) -> None:
    """Computes the blocks of this process that nobody has done yet."""
    size, shape = wanted.block_size, _example(wanted).shape
    done = partial.done()
    blocks = range(process_id, -(-len(images) // size), num_processes)
    mine = [block for block in blocks if block not in done]
    if not mine:
        return
    # Only the last block may be shorter, so each is one batch of the reader.
    rows = np.concatenate(
        [np.arange(b * size, min((b + 1) * size, len(images))) for b in mine]
    )
    batches = readable(images, shape[1:], size, positions=rows)
    with (
        partial.writer(process_id) as write,
        progress_bar(
            total=len(rows), unit="image", disable=None if progress else True
        ) as bar,
    ):
        for block, (positions, pixels, unreadable) in zip(mine, batches, strict=True):
            first, count = block * size, len(positions) + len(unreadable)
            batch = np.zeros(shape, np.uint8)
            batch[positions - first] = pixels
            of_block = np.asarray(features(batch))[:count]
            _check_finite(of_block, positions - first, positions)
            write(block, first, of_block, unreadable)
            bar.update(count)


def _check_finite(
    features: np.ndarray, rows: np.ndarray, positions: np.ndarray
) -> None:
    finite = np.isfinite(features[rows]).all(axis=1)
    if not finite.all():
        raise InputError(
            f"the features of image {positions[~finite][0]} are not finite: expected "
            "finite numbers; check the weights"
        )


def _finish(
    wanted: Embedding,
    partial: PartialArray,
    named: NamedImages,
    unreadable: dict[int, str],
) -> None:
    kept = np.ones(len(named.names), bool)
    kept[list(unreadable)] = False
    try:
        with partial.alone():
            if not kept.any():
                partial.remove()
                raise InputError(
                    f"none of {len(named.names)} images can be read, the first: "
                    f"{unreadable[0]}; give other --inputs"
                )
            _write_table(wanted, named, kept)
            partial.finish(Path(wanted.out), kept)
    except FileNotFoundError:
        if not Path(wanted.out).exists():  # otherwise another process was first
            raise


def _write_table(wanted: Embedding, named: NamedImages, kept: np.ndarray) -> None:
    """Writes a line a row, unless a process that was killed then has done so."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["path", *named.labels])
    columns = [named.names, *named.labels.values()]
    for row in np.flatnonzero(kept).tolist():
        lines.writerow([column[row] for column in columns])
    content = text.getvalue().encode("utf-8", "surrogateescape")
    path, out = wanted.table, Path(wanted.out)
    written = path.exists() and path.read_bytes() == content
    for strange in (path, out):
        if strange.exists() and not written:
            raise InputError(
                f"{strange} appeared since this work began: expected no such file; "
                "move it away, and the same command goes on"
            )
    if not written:
        write_atomically(path, lambda file: file.write(content))
