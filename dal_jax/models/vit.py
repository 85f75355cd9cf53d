"""Vision transformers: tiny, small and base, with patches of 16x16 pixels.

Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, arXiv 2010.11929; the tiny and
small ones are those of Touvron et al., Training data-efficient image transformers,
2020, arXiv 2012.12877. Structure and numbers are those of the usual PyTorch code:
normalisation before each half of a block, a class token whose last state is
classified, learned positions, and a bias at queries, keys and values.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from dal_jax.errors import InputError
from dal_jax.models.layers import TORCH, Initialization, LayerNorm, Linear

PATCH = 16

# timm cuts this at a hundred deviations, that is, never.
_NARROW = initializers.normal(0.02)
_TRANSFORMER = Initialization(_NARROW, lambda fan_in: initializers.zeros)


class Patches(nnx.Module):
    """Cuts images into squares of :data:`PATCH` pixels a side and projects each."""

    kernel: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def __init__(self, channels: int, width: int, *, dtype: Any, rngs: nnx.Rngs):
        self.dtype = dtype
        shape = (PATCH, PATCH, channels, width)
        bias = TORCH.bias(PATCH * PATCH * channels)
        self.kernel = nnx.Param(TORCH.kernel(rngs.params(), shape))
        self.bias = nnx.Param(bias(rngs.params(), (width,)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps ``[batch, height, width, channels]`` to ``[batch, patches, width]``."""
        batch, height, width, channels = images.shape
        rows, columns = height // PATCH, width // PATCH
        x = images.reshape(batch, rows, PATCH, columns, PATCH, channels)
        x = x.swapaxes(2, 3).reshape(batch, rows * columns, -1)
        kernel = self.kernel[...].reshape(x.shape[-1], -1)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + self.bias[...].astype(self.dtype)


class Attention(nnx.Module):
    """Every token looks at all tokens of its image, ``num_heads`` times at once."""

    qkv: Linear
    projection: Linear

    def __init__(self, width: int, num_heads: int, *, dtype: Any, rngs: nnx.Rngs):
        self.num_heads = num_heads
        common = {"dtype": dtype, "initialization": _TRANSFORMER, "rngs": rngs}
        self.qkv = Linear(width, 3 * width, **common)
        self.projection = Linear(width, width, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, width]`` to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1)
        # softmax(q k' / sqrt(width / num_heads)) v, the softmax in float32.
        y = jax.nn.dot_product_attention(*jnp.unstack(qkv, axis=2))
        return self.projection(y.reshape(batch, tokens, width))


class Block(nnx.Module):
    """Attention, then a perceptron with GELU: each on normalised tokens, each added."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    dense1: Linear
    dense2: Linear

    def __init__(self, width: int, num_heads: int, *, dtype: Any, rngs: nnx.Rngs):
        common = {"dtype": dtype, "initialization": _TRANSFORMER, "rngs": rngs}
        self.norm1 = LayerNorm(width, dtype=dtype)
        self.attention = Attention(width, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, dtype=dtype)
        self.dense1 = Linear(width, 4 * width, **common)
        self.dense2 = Linear(4 * width, width, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, width]`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        y = jax.nn.gelu(self.dense1(self.norm2(x)), approximate=False)
        return x + self.dense2(y)


class VisionTransformer(nnx.Module):
    """``depth`` blocks over the class token and the patches; the token's state counts.

    The positions are learned for the ``(rows, columns)`` of patches that
    ``image_shape`` has, the class token's first. ``remat`` recomputes the inside of the
    blocks in the backward pass instead of keeping it. This takes about a third more
    time, and memory for the inside of one block and every block's input.
    """

    grid: tuple[int, int]
    patches: Patches
    class_token: nnx.Param[jax.Array]
    positions: nnx.Param[jax.Array]
    blocks: nnx.Dict[Block]
    norm: LayerNorm
    head: Linear

    def __init__(
        self,
        width: int,
        num_heads: int,
        depth: int = 12,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        remat: bool = False,
        dtype: Any = jnp.float32,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        del axis_name  # nothing here looks at the batch
        self.grid = patch_grid(image_shape)
        self.remat = remat
        self.patches = Patches(image_shape[-1], width, dtype=dtype, rngs=rngs)
        rows, columns = self.grid
        self.class_token = nnx.Param(
            initializers.normal(1e-6)(rngs.params(), (1, 1, width))
        )
        self.positions = nnx.Param(
            _NARROW(rngs.params(), (1, 1 + rows * columns, width))
        )
        self.blocks = nnx.Dict(
            {
                # Two digits, for a dictionary may come back in alphabetical order.
                f"block{i:02}": Block(width, num_heads, dtype=dtype, rngs=rngs)
                for i in range(depth)
            }
        )
        self.norm = LayerNorm(width, dtype=dtype)
        self.head = Linear(
            width,
            num_classes,
            dtype=dtype,
            out_dtype=jnp.float32,
            initialization=_TRANSFORMER,
            rngs=rngs,
        )

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images to what the last layer classifies, ``[batch, width]``."""
        del train  # the same in training
        x = self.patches(images)
        token = jnp.broadcast_to(
            self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1])
        )
        x = jnp.concatenate([token, x], axis=1)
        x = x + self.positions[...].astype(x.dtype)
        run = nnx.remat(Block.__call__) if self.remat else Block.__call__
        for block in self.blocks.values():
            x = run(block, x)
        return self.norm(x[:, 0])

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[batch, height, width, channels]`` to float32 logits."""
        return self.head(self.features(images, train))


def patch_grid(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Returns the rows and columns of patches that an image is cut into.

    Raises:
      InputError: an image smaller than a patch, or one that does not divide into them.

    Example:
      >>> patch_grid((32, 48, 3))
      (2, 3)
    """
    height, width, _ = image_shape
    rows, columns = height // PATCH, width // PATCH
    if min(rows, columns) == 0:
        raise InputError(
            f"images of {height}x{width} are smaller than a patch of {PATCH}x{PATCH}: "
            "resize them with dataset.image_size, or use a resnet or a cnn"
        )
    if (height, width) != (rows * PATCH, columns * PATCH):
        raise InputError(
            f"images of {height}x{width} do not divide into patches of "
            f"{PATCH}x{PATCH}: resize them to multiples of {PATCH}, as "
            f"{rows * PATCH}x{columns * PATCH}"
        )
    return rows, columns


def resize_positions(
    positions: jax.Array, old: tuple[int, int], new: tuple[int, int]
) -> jax.Array:
    """Interpolates learned positions for another grid of patches.

    Bicubic (Keys, a = -1/2), with antialiasing where the grid shrinks, as timm does;
    the class token's stays.

    Args:
      positions: ``[1, 1 + rows * columns, width]`` for the old grid.
      old: its rows and columns.
      new: the rows and columns wanted.

    Returns:
      ``[1, 1 + rows * columns, width]`` for the new grid.

    Example:
      >>> resize_positions(jnp.ones((1, 1 + 4, 3)), (2, 2), (3, 5)).shape
      (1, 16, 3)
    """
    if old == new:
        return positions
    width = positions.shape[-1]
    token, patches = positions[:, :1], positions[:, 1:]
    patches = jax.image.resize(
        patches.reshape(1, *old, width), (1, *new, width), "bicubic"
    )
    return jnp.concatenate([token, patches.reshape(1, -1, width)], axis=1)


def vit_tiny(*, remat: bool = False, **common: Any) -> VisionTransformer:
    """ViT-Ti/16: width 192, 3 heads."""
    return VisionTransformer(192, 3, remat=remat, **common)


def vit_small(*, remat: bool = False, **common: Any) -> VisionTransformer:
    """ViT-S/16: width 384, 6 heads."""
    return VisionTransformer(384, 6, remat=remat, **common)


def vit_base(*, remat: bool = False, **common: Any) -> VisionTransformer:
    """ViT-B/16: width 768, 12 heads."""
    return VisionTransformer(768, 12, remat=remat, **common)
