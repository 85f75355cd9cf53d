"""Networks whose parameters come from a file."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from dal_jax.errors import InputError
from dal_jax.models import weights
from dal_jax.models.heads import is_head
from dal_jax.models.normalization import Normalization, expected_by
from dal_jax.models.vit import resize_positions
from dal_jax.models.weight_names import family
from dal_jax.models.weights import Place


class Description(NamedTuple):
    """What a file of weights says about itself.

    Attributes:
      sha256: of its bytes, as Hugging Face shows it.
      num_classes: the logits of its last layer; ``None`` if it has none.
      small_images: whether a ResNet's stem is 3x3; ``None`` for other networks.
      normalization: of the pixels in its training; ``None`` if that is not known.
    """

    sha256: str
    num_classes: int | None
    small_images: bool | None
    normalization: Normalization | None


def as_rngs(source: nnx.Rngs | jax.Array) -> nnx.Rngs:
    """Returns a source of random numbers; a key draws the parameters.

    Example:
      >>> key = jax.random.key(0)
      >>> bool(as_rngs(key).params() == nnx.Rngs(params=key).params())
      True
    """
    if isinstance(source, nnx.Rngs):
        return source
    return nnx.Rngs(jax.random.fold_in(source, 1), params=source)


def pretrained(
    construct: Callable[..., nnx.Module],
    path: str | os.PathLike[str],
    *,
    num_classes: int | None,
    rngs: nnx.Rngs | jax.Array | None,
    stem_as_in_file: bool,
) -> nnx.Module:
    """Creates a network with a file's parameters, as ``models.create`` describes it.

    Args:
      construct: ``(num_classes, rngs) -> module``, and with ``stem_as_in_file`` also
        ``small_images``.
      path: a .safetensors file.
      num_classes: the number of logits; ``None`` for the file's.
      rngs: what a new last layer is drawn from.
      stem_as_in_file: whether the form of a ResNet's stem is the file's.
    """
    stored, names, form = _read(construct, path, stem_as_in_file)
    classes = _num_classes(stored, names)
    if num_classes is None and classes is None:
        raise InputError(f"weights {path} have no last layer: give num_classes")
    keeps_head = classes is not None and num_classes in (None, classes)
    construct = functools.partial(construct, num_classes=num_classes or classes, **form)
    sketch = _sketch(construct)
    leaves = _leaves(sketch)
    shapes = {
        place: leaves[place]
        for place in weights.parameter_names(leaves)
        if keeps_head or not is_head(place)
    }
    arrays = _from_file(stored, shapes, getattr(sketch, "grid", None))
    if set(arrays) != set(leaves):
        if rngs is None:
            raise InputError(
                f"weights {path} leave the last layer, or dropout's random numbers, "
                "open: give rngs, such as nnx.Rngs(0)"
            )
        key = as_rngs(rngs).params()
        arrays |= _drawn(construct, set(arrays), key)
    graph, state = nnx.split(sketch)
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(arrays))
    return nnx.merge(graph, state)


def describe(
    construct: Callable[..., nnx.Module],
    path: str | os.PathLike[str],
    *,
    stem_as_in_file: bool,
) -> Description:
    """Returns what a file says about itself; arguments as of :func:`pretrained`.

    Raises:
      InputError: the file cannot be read, or has the names of another network.
    """
    stored, names, form = _read(construct, path, stem_as_in_file)
    said = stored.normalization()
    with Path(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Description(
        sha256,
        _num_classes(stored, names),
        form.get("small_images"),
        said or expected_by(family(names), stored.naming.whose),
    )


def _read(
    construct: Callable[..., nnx.Module],
    path: str | os.PathLike[str],
    stem_as_in_file: bool,
) -> tuple[weights.Stored, list[str], dict[str, bool]]:
    """A file, the network's parameters by name, and the form of a ResNet's stem."""
    # What the parameters are called depends neither on the classes nor on the stem.
    form = {"small_images": True} if stem_as_in_file else {}
    sketch = _sketch(functools.partial(construct, num_classes=1, **form))
    names = list(weights.parameter_names(_leaves(sketch)).values())
    stored = weights.read(path, names)
    if stem_as_in_file:
        form = {"small_images": stored.get("stem.weight").shape[-1:] == (3,)}
    return stored, names, form


def _num_classes(stored: weights.Stored, names: list[str]) -> int | None:
    head = next(filter(is_head, names))
    return len(stored.get(head)) if stored.holds(head) else None


def _sketch(construct: Callable[..., nnx.Module]) -> nnx.Module:
    """The module with shapes for arrays: nothing is computed."""
    return nnx.eval_shape(lambda: construct(rngs=nnx.Rngs(0)))


def _leaves(module: nnx.Module) -> dict[Place, Any]:
    return weights.flatten(nnx.to_pure_dict(nnx.state(module)))


def _from_file(
    stored: weights.Stored,
    shapes: dict[Place, jax.ShapeDtypeStruct],
    grid: tuple[int, int] | None,
) -> dict[Place, jax.Array]:
    """The parameters of the given shapes, positions interpolated for the grid."""
    names = weights.parameter_names(shapes)
    expected = {
        name: weights.torch_shape(shapes[place].shape) for place, name in names.items()
    }
    if grid is not None:
        rows, columns = old_grid = stored.grid(grid)
        expected["positions"] = (1, 1 + rows * columns, expected["positions"][-1])
    weights.check_shapes(stored, expected)
    arrays = {
        # A copy: on the CPU the array may otherwise share the file's memory.
        place: jnp.array(weights.from_torch(stored.get(name)), shapes[place].dtype)
        for place, name in names.items()
    }
    if grid is not None:
        place = ("positions",)
        arrays[place] = resize_positions(arrays[place], old_grid, grid)
    return arrays


def _drawn(
    construct: Callable[..., nnx.Module], known: set[Place], key: jax.Array
) -> dict[Place, jax.Array]:
    """What is not known yet, drawn; the compiler leaves the rest out."""

    @jax.jit
    def draw(key: jax.Array) -> dict[Place, jax.Array]:
        leaves = _leaves(construct(rngs=as_rngs(key)))
        return {place: leaf for place, leaf in leaves.items() if place not in known}

    return draw(key)
