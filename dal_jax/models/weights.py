"""Weights of networks in safetensors files, read and written without PyTorch.

A file's tensors go by the names of timm, torchvision or transformers
(:mod:`dal_jax.models.weight_names`), in PyTorch's layout: convolutions
``[out, in, height, width]``, dense layers ``[out, in]``. Names and shapes are matched
strictly both ways.
"""

import json
import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from dal_jax.errors import InputError
from dal_jax.models.heads import is_head
from dal_jax.models.normalization import Normalization
from dal_jax.models.weight_names import NAMINGS, UNUSED, Naming, family

# The last part of a parameter's place in a module, and what PyTorch calls it.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "class_token": "class_token",
    "positions": "positions",
}
_PICKLES = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".tar", ".joblib")
_FLOATS = ("float16", "bfloat16", "float32", "float64")

Place = tuple[str, ...]
Shape = tuple[int, ...]


class Stored(NamedTuple):
    """A file's tensors by the names in it, and the naming that they follow."""

    path: str
    tensors: Mapping[str, np.ndarray]
    naming: Naming
    metadata: Mapping[str, str]

    def holds(self, parameter: str) -> bool:
        """Whether the file has a parameter; only the last layer may be absent."""
        return set(self.naming.names(parameter)) <= set(self.tensors)

    def get(self, parameter: str) -> np.ndarray:
        """Returns a parameter that the file has, in PyTorch's layout."""
        names = self.naming.names(parameter)
        parts = [np.atleast_1d(self.tensors[name]) for name in names]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def normalization(self) -> Normalization | None:
        """Returns the pixels' means and deviations that :func:`save_weights` wrote."""
        given = self.metadata.get("normalization")
        return None if given is None else Normalization(*map(tuple, json.loads(given)))

    def grid(self, wanted: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of patches that the file's positions are for.

        A file of :func:`save_weights` says so. Others are for square images, or, if
        that cannot be, for those that are ``wanted``.
        """
        said = re.fullmatch(r"(\d+)x(\d+)", self.metadata.get("patch_grid", ""))
        if said:
            return int(said[1]), int(said[2])
        positions = self.get("positions")
        patches = positions.shape[1] - 1 if positions.ndim == 3 else 0
        side = math.isqrt(max(patches, 0))
        return (side, side) if side**2 == patches else wanted


def read(path: str | os.PathLike[str], parameters: Collection[str]) -> Stored:
    """Reads a file that holds the given parameters and nothing else.

    The last layer may be absent as a whole.

    Args:
      path: a .safetensors file.
      parameters: what the network has, as :func:`parameter_names` calls it.

    Raises:
      InputError: the file is missing, truncated, or of another kind, or it lacks
        parameters or holds other tensors.
    """
    path = os.fspath(path)
    tensors, metadata = _read_tensors(path)
    given = {name for name in tensors if not UNUSED.search(name)}

    def expected(naming: Naming, parameters: Iterable[str] = parameters) -> set[str]:
        return {name for one in parameters for name in naming.names(one)}

    namings = NAMINGS[family(parameters)]
    naming = max(namings, key=lambda naming: len(expected(naming) & given))
    missing = expected(naming) - given
    if missing == expected(naming, filter(is_head, parameters)):
        missing = set()
    left_over = given - expected(naming)
    if missing or left_over:
        raise InputError(
            f"weights {path} are not those of this network, by the names of "
            f"{naming.whose}: {_differences(missing, left_over)}; give those of this "
            "network, or the network of these"
        )
    return Stored(path, tensors, naming, metadata)


def _differences(missing: set[str], left_over: set[str]) -> str:
    found = {"missing": missing, "left over": left_over}
    return "; ".join(
        f"{len(names)} {what} ({_few(sorted(names))})"
        for what, names in found.items()
        if names
    )


def _few(items: list[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def check_shapes(stored: Stored, expected: Mapping[str, Shape]) -> None:
    """Compares the shapes of a file's tensors with a network's, in PyTorch's layout.

    Raises:
      InputError: shapes that differ, the first few by name.
    """
    wrong = []
    for parameter, (rows, *rest) in expected.items():
        names = stored.naming.names(parameter)
        # Queries, keys and values have a third of the rows each.
        shape = (rows // len(names), *rest)
        for name in names:
            given = stored.tensors[name].shape
            if given != shape:
                wrong.append(f"{name} is {list(given)}, expected {list(shape)}")
    if wrong:
        raise InputError(
            f"weights {stored.path} are not those of this network: {len(wrong)} of "
            f"another shape ({_few(wrong)}); give those of this network"
        )


def _read_tensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    _refuse_pickles(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = file.keys()  # the file itself is no iterable
            tensors = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"weights {path} cannot be read, truncated or no safetensors file: {reason}"
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _FLOATS and not UNUSED.search(name):
            raise InputError(
                f"weights {path}: {name} is {tensor.dtype.name}, expected one of "
                f"{', '.join(_FLOATS)}"
            )
    return tensors, metadata


def _refuse_pickles(path: str) -> None:
    refused = (
        f"weights {path}: a pickle runs code when it is read and is refused; write the "
        "weights as .safetensors where the file came from"
    )
    if Path(path).suffix.lower() in _PICKLES:
        raise InputError(refused)
    try:
        regular = stat.S_ISREG(Path(path).stat().st_mode)
    except OSError as error:
        raise InputError(
            f"weights {path}: {error.strerror}; give the path of a .safetensors file"
        ) from error
    if not regular:
        raise InputError(f"weights {path}: expected a .safetensors file")
    with Path(path).open("rb") as file:
        start = file.read(9)
    # Pickles of protocol 2 and later, and the zip archives that hold them. A
    # safetensors file may begin with the same bytes: they are its header's length,
    # eight bytes, before a brace.
    if start.startswith((b"PK", b"\x80")) and not start.endswith(b"{"):
        raise InputError(refused)


def flatten(tree: Any) -> dict[Place, Any]:
    """Returns the leaves of nested dictionaries by their keys.

    Example:
      >>> flatten({"head": {"bias": 1}})
      {('head', 'bias'): 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def parameter_names(places: Iterable[Place]) -> dict[Place, str]:
    """Returns what the parameters among some places in a module are called.

    A parameter's name is its place, with the last part as PyTorch has it.

    Example:
      >>> block = "blocks", "block00"
      >>> parameter_names([(*block, "norm1", "scale"), (*block, "dropout", "count")])
      {('blocks', 'block00', 'norm1', 'scale'): 'blocks.block00.norm1.weight'}
    """
    return {
        place: ".".join([*place[:-1], _LEAVES[place[-1]]])
        for place in places
        if place[-1] in _LEAVES
    }


def to_torch(array: Any) -> Any:
    """Reorders a parameter's axes to PyTorch's: ``HWIO`` to ``OIHW``, ``IO`` to ``OI``.

    Example:
      >>> to_torch(np.zeros((3, 3, 16, 32))).shape
      (32, 16, 3, 3)
    """
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def torch_shape(shape: Shape) -> Shape:
    """Returns the shape of :func:`to_torch` of an array of the given shape.

    Example:
      >>> torch_shape((3, 3, 16, 32))
      (32, 16, 3, 3)
    """
    return to_torch(np.broadcast_to(np.float32(), shape)).shape


def from_torch(array: Any) -> Any:
    """Undoes :func:`to_torch`.

    Example:
      >>> from_torch(np.zeros((32, 16, 3, 3))).shape
      (3, 3, 16, 32)
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def save_weights(
    module: nnx.Module,
    path: str | os.PathLike[str],
    *,
    params: Any = None,
    model_state: Any = None,
    head: bool = True,
    normalization: Normalization | None = None,
) -> None:
    """Writes a network's weights as float32 to a safetensors file.

    ResNets and vision transformers get timm's names, other networks those of this
    package. ``models.create(..., weights=path)`` restores them bit for bit.

    Args:
      module: a network of :func:`dal_jax.models.create`.
      path: where to write; an existing file is replaced.
      params: nested dictionaries to write instead of the module's own, as
        ``functionalize`` gives them and training changes them.
      model_state: batch norm's statistics, likewise.
      head: whether to write the last layer.
      normalization: the means and deviations of the pixels that it was trained on;
        a configuration with ``model.weights`` then normalises likewise.
    """
    state = nnx.to_pure_dict(nnx.state(module))
    arrays = flatten(state) | flatten(params or {}) | flatten(model_state or {})
    names = parameter_names(arrays)
    naming = NAMINGS[family(names.values())][0]
    tensors = {
        naming.name(name): np.ascontiguousarray(to_torch(np.asarray(arrays[place])))
        for place, name in names.items()
        if head or not is_head(place)
    }
    metadata = {"format": "pt"}
    grid = getattr(module, "grid", None)
    if grid is not None:
        metadata["patch_grid"] = "x".join(map(str, grid))
    if normalization is not None:
        metadata["normalization"] = json.dumps(normalization)
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(safetensors.numpy.save(tensors, metadata))
    unfinished.replace(path)
