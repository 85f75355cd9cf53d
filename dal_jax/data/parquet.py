"""Inputs and labels from the columns of a Parquet file, through pyarrow.

Inputs are one column of lists, all of one length, or several columns of numbers, which
become float32 features in the order of the columns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.data.blocks import few
from dal_jax.errors import InputError

_ROWS_AT_ONCE = 2**14


def read(
    path: Path,
    input_columns: Sequence[str] | None,
    *,
    label_column: str | None = None,
    clean_label_column: str = "clean_label",
) -> dict[str, Any]:
    """Returns the inputs, and the labels where they are asked for.

    Args:
      path: of the file.
      input_columns: one of lists, or those of numbers. None takes the only column of
        lists, or else all columns but ``path`` and the labels'.
      label_column: the column of the given labels; None reads no labels.
      clean_label_column: that of the clean ones; it may be absent.

    Returns:
      ``inputs`` ``[N, D]``, float32 where the file has 64 bits, ``columns`` whose they
      are, and ``labels``, ``clean_labels`` and ``names`` (of the column ``path``) where
      there are such: integers, or a list of text.

    Raises:
      InputError: the file is no Parquet file, lacks a column or a value, or has a
        column that is no list of numbers.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = {field.name: field.type for field in file.schema_arrow}
            special = {label_column or "label", clean_label_column, "path"}
            chosen = _input_columns(arrow, path, schema, input_columns, special)
            inputs = _read_inputs(arrow, file, path, schema, chosen)
            arrays: dict[str, Any] = {"inputs": inputs, "columns": tuple(chosen)}
            if label_column is None:
                return arrays
            _require(path, schema, [label_column])
            arrays["labels"] = _read_labels(arrow, file, path, label_column)
            if clean_label_column in schema:
                clean = _read_labels(arrow, file, path, clean_label_column)
                arrays["clean_labels"] = clean
            if "path" in schema and "path" not in chosen:
                names = file.read(columns=["path"]).column(0).to_pylist()
                arrays["names"] = np.array([str(name) for name in names], object)
            return arrays
    except (arrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} cannot be read ({reason}): expected a Parquet file; write it again"
        ) from None


def _require(path: Path, schema: dict[str, Any], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in schema:
            raise InputError(
                f"{path} has no column {column!r}, it has {', '.join(schema)}: "
                "expected one; rename it, or set dataset.input_columns and "
                "dataset.label_column"
            )


def _input_columns(
    arrow: Any,
    path: Path,
    schema: dict[str, Any],
    given: Sequence[str] | None,
    special: set[str],
) -> list[str]:
    """Returns the columns of the inputs: one of lists, or some of numbers."""
    chosen = [name for name in schema if name not in special]
    if given is not None:
        _require(path, schema, given)
        chosen = list(given)
    elif sum(_is_list(arrow, schema[name]) for name in chosen) == 1:
        chosen = [name for name in chosen if _is_list(arrow, schema[name])]
    alone = len(chosen) == 1
    for name in chosen:
        kind = schema[name]
        kind = kind.value_type if alone and _is_list(arrow, kind) else kind
        if not _is_number(arrow, kind):
            raise InputError(
                f"{path}: column {name!r} holds {schema[name]}: expected one column of "
                "lists of numbers, or columns of numbers alone; convert it, or name "
                "the columns to use in dataset.input_columns"
            )
    if not chosen:
        raise InputError(
            f"{path} has no column of inputs, it has {', '.join(schema) or 'none'}: "
            "expected one of lists of numbers, or columns of numbers; add them"
        )
    return chosen


def _is_list(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )


def _is_number(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)


def _read_inputs(
    arrow: Any, file: Any, path: Path, schema: dict[str, Any], columns: list[str]
) -> np.ndarray:
    """Reads a batch of rows at a time into one array."""
    lists = len(columns) == 1 and _is_list(arrow, schema[columns[0]])
    dtype = np.dtype(np.float32)
    if lists:
        dtype = np.dtype(schema[columns[0]].value_type.to_pandas_dtype())
        dtype = np.dtype(np.float32) if dtype == np.float64 else dtype
    inputs, first = np.empty((0, 0), dtype), 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
        parts = [batch.column(name) for name in columns]
        for name, part in zip(columns, parts, strict=True):
            _check_complete(part, path, name, first)
        with np.errstate(over="ignore"):  # what overflows is found with the infinite
            if lists:
                rows = _of_lists(parts[0], path, columns[0], first, inputs)
                rows = rows.astype(dtype, copy=False)
            else:
                numbers = [part.to_numpy(zero_copy_only=False) for part in parts]
                rows = np.stack([x.astype(dtype) for x in numbers], axis=1)
        if not first:
            inputs = np.empty((file.metadata.num_rows, rows.shape[1]), dtype)
        inputs[first : first + len(rows)] = rows
        first += len(rows)
    return inputs


def _check_complete(part: Any, path: Path, column: str, first: int) -> None:
    if part.null_count:
        empty = np.flatnonzero(part.is_null().to_numpy(zero_copy_only=False)) + first
        raise InputError(
            f"{path}: column {column!r} has no value in some rows (rows "
            f"{few(empty.tolist())}): expected one in each; fill them in or remove the "
            "rows"
        )


def _of_lists(
    part: Any, path: Path, column: str, first: int, before: np.ndarray
) -> np.ndarray:
    """Returns a batch of lists as rows; all have the width of the first."""
    widths = np.asarray(part.value_lengths())
    width = before.shape[1] if first else int(widths[0])
    other = np.flatnonzero(widths != width)
    if len(other):
        raise InputError(
            f"{path}: column {column!r} has {width} numbers in row 0 and "
            f"{widths[other[0]]} in row {first + other[0]}: expected as many in every "
            "row; fill them up or remove the rows"
        )
    values = part.flatten()
    if values.null_count:
        empty = np.asarray(values.is_null().to_numpy(zero_copy_only=False))
        rows = np.flatnonzero(empty.reshape(len(part), width).any(axis=1)) + first
        raise InputError(
            f"{path}: column {column!r} has lists with no value in some places (rows "
            f"{few(rows.tolist())}): expected numbers; fill them in or remove the rows"
        )
    return values.to_numpy(zero_copy_only=False).reshape(len(part), width)


def _read_labels(arrow: Any, file: Any, path: Path, column: str) -> Any:
    labels = file.read(columns=[column]).column(0)
    _check_complete(labels, path, column, 0)
    kind = labels.type
    if arrow.types.is_dictionary(kind):
        labels, kind = labels.cast(kind.value_type), kind.value_type
    if arrow.types.is_integer(kind):
        return labels.to_numpy()
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        return labels.to_pylist()
    raise InputError(
        f"{path}: column {column!r} holds {kind}: expected integers or text, a class "
        "an example; convert it"
    )
