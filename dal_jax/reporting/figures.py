"""Small pictures for a page, as text that goes into it."""

import base64
import io

import numpy as np

# A thumbnail's longer side, and up to which side an image keeps every pixel.
_THUMBNAIL = 128
_TINY = 48
# How many numbers of an input that is no image are shown.
_MOST_VALUES = 8


def shown(content: np.ndarray | None) -> tuple[str | None, str]:
    """Returns how an input is shown: as a picture's data URI, or as a few numbers.

    Args:
      content: uint8 ``[H, W, C]`` of 1 or 3 channels is a picture; ``None`` is shown
        as nothing.

    Example:
      >>> shown(np.arange(10) / 4)
      (None, '0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, and 2 more')
    """
    if content is None:
        return None, ""
    if content.dtype == np.uint8 and content.ndim == 3 and content.shape[-1] in (1, 3):
        return thumbnail(content), ""
    flat = content.ravel()
    some = ", ".join(f"{value:.4g}" for value in flat[:_MOST_VALUES].tolist())
    more = len(flat) - _MOST_VALUES
    return None, f"{some}, and {more:,} more" if more > 0 else some


def thumbnail(pixels: np.ndarray) -> str:
    """Returns an image as a data URI: a small one as PNG, a photograph as JPEG.

    Args:
      pixels: uint8 ``[H, W, C]``, of 1 or 3 channels.

    Example:
      >>> thumbnail(np.zeros((8, 8, 1), np.uint8))[:22]
      'data:image/png;base64,'
    """
    from PIL import Image  # what matplotlib reads and writes pictures with

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    form, kind, options = "PNG", "png", {"optimize": True}
    if max(image.size) > _TINY:
        form, kind, options = "JPEG", "jpeg", {"quality": 80}
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return _data_uri(kind, buffer.getvalue())


def line(values: np.ndarray) -> str:
    """Returns points of an SVG polyline, 100 by 24, of values in [0, 1].

    Example:
      >>> line(np.array([0.0, 0.5, 1.0]))
      '0,24 50,12 100,0'
    """
    places = np.linspace(0, 100, len(values)) if len(values) > 1 else [100]
    heights = 24 * (1 - np.clip(np.nan_to_num(values), 0, 1))
    return " ".join(
        f"{round(float(x), 1):g},{round(float(y), 1):g}"
        for x, y in zip(places, heights, strict=True)
    )


def heat_map(matrix: np.ndarray) -> str:
    """Returns the shares off the diagonal of a large matrix, as a PNG's data URI.

    Args:
      matrix: floating ``[K, K]``, rows the true classes; nan where nothing is known.
    """
    # Without pyplot there is no global state and no display to look for.
    from matplotlib.figure import Figure

    shares = matrix.copy()
    np.fill_diagonal(shares, np.nan)
    most = np.nanmax(shares) if np.isfinite(shares).any() else 1.0
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#ddd")
    image = axes.imshow(shares, vmin=0, vmax=max(most, 1e-9), cmap="magma_r")
    axes.set_xlabel("given label (class number)")
    axes.set_ylabel("estimated true class (class number)")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return _data_uri("png", buffer.getvalue())


def pixel_map(matrix: np.ndarray, most: float) -> str:
    """Returns shares as a PNG's data URI, a pixel each; what is not there is clear.

    It is seen on light and on dark ground, and takes no time to draw.

    Args:
      matrix: floating ``[K, K]``; nan is clear.
      most: the share that is drawn in full strength.
    """
    from PIL import Image

    strength = np.clip(np.nan_to_num(matrix) / max(most, 1e-9), 0, 1)
    # A single pixel must be seen, so nothing that is there is faint.
    alpha = np.where(strength > 0, 50 + 205 * np.sqrt(strength), 0)
    pixels = np.empty((*matrix.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (224, 90, 40), alpha.astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return _data_uri("png", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
