"""Residual networks: ResNet-18, 34 and 50, and PreAct-ResNet-18.

He et al., Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385, and
Identity Mappings in Deep Residual Networks, 2016, arXiv 1603.05027. Structure,
initialisation and batch norm are those of the usual PyTorch code, so that a recipe
written for it means the same here; docs/models.md lists what differs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dal_jax.errors import InputError
from dal_jax.models.layers import (
    HE_FAN_OUT,
    TORCH,
    BatchNorm,
    Convolution,
    Initialization,
    Linear,
    overlapping_max_pool,
)


class Shortcut(nnx.Module):
    """The identity or, where given, a 1x1 convolution and perhaps batch norm."""

    def __init__(self, convolution: Convolution | None, norm: BatchNorm | None):
        self.convolution = convolution
        self.norm = norm

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps a block's input to the shape of its output."""
        if self.convolution is not None:
            x = self.convolution(x)
        return x if self.norm is None else self.norm(x, train)


class _Block(nnx.Module):
    """What blocks share: how their layers are made."""

    expansion = 1

    def __init__(
        self, *, dtype: Any, axis_name: str | None, initialization: Initialization
    ):
        self.dtype = dtype
        self.axis_name = axis_name
        self.initialization = initialization

    def convolution(self, *sizes: int, stride: int = 1, rngs: nnx.Rngs) -> Convolution:
        return Convolution(
            *sizes,
            stride=stride,
            dtype=self.dtype,
            initialization=self.initialization,
            rngs=rngs,
        )

    def norm(self, features: int) -> BatchNorm:
        return BatchNorm(features, dtype=self.dtype, axis_name=self.axis_name)

    def shortcut_to(
        self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs
    ) -> Shortcut:
        if stride == 1 and inputs == outputs:
            return Shortcut(None, None)
        projection = self.convolution(inputs, outputs, 1, stride=stride, rngs=rngs)
        return Shortcut(projection, self.norm(outputs))


class BasicBlock(_Block):
    """Two 3x3 convolutions, each with batch norm, around a shortcut."""

    convolution1: Convolution
    norm1: BatchNorm
    convolution2: Convolution
    norm2: BatchNorm
    shortcut: Shortcut

    def __init__(
        self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs, **common: Any
    ):
        super().__init__(**common)
        self.convolution1 = self.convolution(inputs, width, stride=stride, rngs=rngs)
        self.norm1 = self.norm(width)
        self.convolution2 = self.convolution(width, width, rngs=rngs)
        self.norm2 = self.norm(width)
        self.shortcut = self.shortcut_to(inputs, width, stride, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``[batch, height, width, inputs]`` to ``[..., outputs]``."""
        y = jax.nn.relu(self.norm1(self.convolution1(x), train))
        y = self.norm2(self.convolution2(y), train)
        return jax.nn.relu(y + self.shortcut(x, train))


class BottleneckBlock(_Block):
    """1x1, 3x3 (which takes the stride) and 1x1 convolutions around a shortcut."""

    expansion = 4

    convolution1: Convolution
    norm1: BatchNorm
    convolution2: Convolution
    norm2: BatchNorm
    convolution3: Convolution
    norm3: BatchNorm
    shortcut: Shortcut

    def __init__(
        self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs, **common: Any
    ):
        super().__init__(**common)
        outputs = width * self.expansion
        self.convolution1 = self.convolution(inputs, width, 1, rngs=rngs)
        self.norm1 = self.norm(width)
        self.convolution2 = self.convolution(width, width, stride=stride, rngs=rngs)
        self.norm2 = self.norm(width)
        self.convolution3 = self.convolution(width, outputs, 1, rngs=rngs)
        self.norm3 = self.norm(outputs)
        self.shortcut = self.shortcut_to(inputs, outputs, stride, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``[batch, height, width, inputs]`` to ``[..., outputs]``."""
        y = jax.nn.relu(self.norm1(self.convolution1(x), train))
        y = jax.nn.relu(self.norm2(self.convolution2(y), train))
        y = self.norm3(self.convolution3(y), train)
        return jax.nn.relu(y + self.shortcut(x, train))


class PreActivationBlock(_Block):
    """Batch norm and ReLU before each of two 3x3 convolutions; a clean shortcut."""

    norm1: BatchNorm
    convolution1: Convolution
    norm2: BatchNorm
    convolution2: Convolution
    projection: Convolution | None

    def __init__(
        self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs, **common: Any
    ):
        super().__init__(**common)
        self.norm1 = self.norm(inputs)
        self.convolution1 = self.convolution(inputs, width, stride=stride, rngs=rngs)
        self.norm2 = self.norm(width)
        self.convolution2 = self.convolution(width, width, rngs=rngs)
        projected = stride != 1 or inputs != width
        self.projection = (
            self.convolution(inputs, width, 1, stride=stride, rngs=rngs)
            if projected
            else None
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``[batch, height, width, inputs]`` to ``[..., outputs]``."""
        activated = jax.nn.relu(self.norm1(x, train))
        shortcut = x if self.projection is None else self.projection(activated)
        y = self.convolution1(activated)
        y = self.convolution2(jax.nn.relu(self.norm2(y, train)))
        return y + shortcut


class ResNet(nnx.Module):
    """Four stages of residual blocks, an average over the pixels, and the logits.

    ``small_images`` has a 3x3 stem and no max-pool, for 32x32 pixels; otherwise the
    stem is 7x7 with stride 2 and a 3x3 max-pool with stride 2, for 224x224. The
    convolutions start as PyTorch's layers do (uniform within ``1 / sqrt(fan_in)``)
    or, with ``initialization=HE_FAN_OUT``, as torchvision's ResNets; the last layer
    as PyTorch's in both. ``remat`` recomputes the inside of the blocks in the backward
    pass instead of keeping it. This takes about a third more time, and memory for the
    inside of one block and every block's input.
    """

    stem: Convolution
    norm: BatchNorm
    blocks: nnx.Dict[_Block]
    head: Linear

    def __init__(
        self,
        block: type[BasicBlock | BottleneckBlock | PreActivationBlock],
        blocks_per_stage: Sequence[int],
        *,
        small_images: bool,
        image_shape: tuple[int, int, int],
        num_classes: int,
        remat: bool = False,
        initialization: Initialization = TORCH,
        dtype: Any = jnp.float32,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        _check_size(image_shape, 8 if small_images else 32)
        common = {
            "dtype": dtype,
            "axis_name": axis_name,
            "initialization": initialization,
        }
        self.small_images = small_images
        self.remat = remat
        self.pre_activation: bool = block is PreActivationBlock
        self.stem = Convolution(
            image_shape[-1],
            64,
            3 if small_images else 7,
            stride=1 if small_images else 2,
            dtype=dtype,
            initialization=initialization,
            rngs=rngs,
        )
        blocks, inputs = {}, 64
        for stage, depth in enumerate(blocks_per_stage):
            for i in range(depth):
                width = 64 * 2**stage
                stride = 2 if stage > 0 and i == 0 else 1
                blocks[f"stage{stage}_block{i}"] = block(
                    inputs, width, stride, rngs=rngs, **common
                )
                inputs = width * block.expansion
        self.blocks = nnx.Dict(blocks)
        # After the stem, or, where blocks begin with their activation, at the end.
        self.norm = BatchNorm(
            inputs if self.pre_activation else 64, dtype=dtype, axis_name=axis_name
        )
        self.head = Linear(
            inputs,
            num_classes,
            dtype=dtype,
            out_dtype=jnp.float32,
            initialization=TORCH,
            rngs=rngs,
        )

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images to what the last layer classifies, float32 ``[batch, n]``."""
        x = self.stem(images)
        if not self.pre_activation:
            x = jax.nn.relu(self.norm(x, train))
        if not self.small_images:
            x = overlapping_max_pool(x)
        run = nnx.remat(_run, static_argnums=2) if self.remat else _run
        for block in self.blocks.values():
            x = run(block, x, train)
        if self.pre_activation:
            x = jax.nn.relu(self.norm(x, train))
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[batch, height, width, channels]`` to float32 logits."""
        return self.head(self.features(images, train))


def _run(block: _Block, x: jax.Array, train: bool) -> jax.Array:
    return block(x, train)


def _check_size(image_shape: tuple[int, int, int], smallest: int) -> None:
    height, width, _ = image_shape
    if min(height, width) < smallest:
        raise InputError(
            f"images of {height}x{width} are too small for this resnet: expected at "
            f"least {smallest}x{smallest}; resize them or set model.name=cnn"
        )


def resnet18(
    *, small_images: bool = True, remat: bool = False, **common: Any
) -> ResNet:
    """ResNet-18, by default for 32x32 images."""
    return ResNet(
        BasicBlock, (2, 2, 2, 2), small_images=small_images, remat=remat, **common
    )


def resnet34(
    *, small_images: bool = True, remat: bool = False, **common: Any
) -> ResNet:
    """ResNet-34, by default for 32x32 images."""
    return ResNet(
        BasicBlock, (3, 4, 6, 3), small_images=small_images, remat=remat, **common
    )


def preact_resnet18(*, remat: bool = False, **common: Any) -> ResNet:
    """PreAct-ResNet-18 for 32x32 images."""
    return ResNet(
        PreActivationBlock, (2, 2, 2, 2), small_images=True, remat=remat, **common
    )


def resnet50(
    *, small_images: bool = False, remat: bool = False, **common: Any
) -> ResNet:
    """ResNet-50, by default for 224x224 images, initialised as torchvision's."""
    return ResNet(
        BottleneckBlock,
        (3, 4, 6, 3),
        small_images=small_images,
        remat=remat,
        initialization=HE_FAN_OUT,
        **common,
    )
