"""A small convolutional network for small images."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dal_jax.errors import InputError
from dal_jax.models.layers import Convolution, max_pool
from dal_jax.models.mlp import MLP


class CNN(nnx.Module):
    """3x3 convolutions, each with ReLU and a 2x2 max-pool, then a perceptron.

    Every pooling halves the image (rounding down), so 8x8 digits reach the dense
    layers as 2x2 and 32x32 images as 8x8 with the default two convolutions.
    """

    convolutions: nnx.Dict[Convolution]
    classifier: MLP

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (128,),
        dtype: Any = jnp.float32,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        height, width, _ = image_shape
        smallest = 2 ** len(channels)
        if min(height, width) < smallest:
            raise InputError(
                f"images of {height}x{width} are too small for a cnn with "
                f"{len(channels)} convolutions: expected at least "
                f"{smallest}x{smallest}; give fewer model.channels or resize"
            )
        features = (image_shape[-1], *channels)
        self.convolutions = nnx.Dict(
            {
                f"convolution{i}": Convolution(
                    *sizes, use_bias=True, dtype=dtype, rngs=rngs
                )
                for i, sizes in enumerate(itertools.pairwise(features))
            }
        )
        self.classifier = MLP(
            image_shape=(height // smallest, width // smallest, features[-1]),
            num_classes=num_classes,
            hidden=hidden,
            dtype=dtype,
            axis_name=axis_name,
            rngs=rngs,
        )

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images to what the last layer classifies, ``[batch, n]``."""
        return self.classifier.features(self._convolved(images), train)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[batch, height, width, channels]`` to float32 logits."""
        return self.classifier(self._convolved(images), train)

    def _convolved(self, images: jax.Array) -> jax.Array:
        x = images
        for layer in self.convolutions.values():
            # The two commute, and this order has a quarter of the work.
            x = jax.nn.relu(max_pool(layer(x)))
        return x
