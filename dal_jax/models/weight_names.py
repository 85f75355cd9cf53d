"""What timm, torchvision and transformers call the tensors of a network.

Here a parameter's name is its path in the module, with PyTorch's word for the last
part: ``blocks.stage0_block1.norm1.running_mean``. A naming is a list of rules, each a
pattern and its replacement, applied in turn to get the name in a file. A name with
``{query,key,value}`` in it stands for three tensors whose rows are concatenated.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


class Naming(NamedTuple):
    """Whose names they are, for messages, and the rules that lead to them."""

    whose: str
    rules: Rules

    def name(self, parameter: str) -> str:
        """Returns what a parameter is called, ``{query,key,value}`` and all."""
        for pattern, replacement in self.rules:
            parameter = re.sub(pattern, replacement, parameter)
        return parameter

    def names(self, parameter: str) -> tuple[str, ...]:
        """Returns the tensors that hold a parameter, one after another.

        Example:
          >>> timm, transformers, _ = NAMINGS["resnet"]
          >>> timm.names("blocks.stage0_block1.norm1.running_mean")
          ('layer1.1.bn1.running_mean',)
        """
        name = self.name(parameter)
        several = re.search(r"\{(.*)\}", name)
        if several is None:
            return (name,)
        return tuple(name.replace(several[0], one) for one in several[1].split(","))


def family(parameters: Iterable[str]) -> str:
    """Returns the key of :data:`NAMINGS` for a network with such parameters.

    Example:
      >>> family(["patches.weight", "patches.bias", "class_token"])
      'vit'
    """
    parameters = list(parameters)
    if any(parameter.startswith("patches.") for parameter in parameters):
        return "vit"
    if any(".shortcut." in parameter for parameter in parameters):
        return "resnet"
    return "own"


_RESNET_TIMM: Rules = (
    (r"^stem\.", "conv1."),
    (r"^norm\.", "bn1."),
    (r"^blocks\.stage(\d)_block", lambda match: f"layer{int(match[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.convolution(\d)\.", r".conv\1."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"^head\.", "fc."),
)
_RESNET_TRANSFORMERS: Rules = (
    (r"^stem\.", "resnet.embedder.embedder.convolution."),
    (r"^norm\.", "resnet.embedder.embedder.normalization."),
    (r"^blocks\.stage(\d)_block(\d+)", r"resnet.encoder.stages.\1.layers.\2"),
    (
        r"\.(convolution|norm)(\d)\.",
        lambda match: f".layer.{int(match[2]) - 1}.{match[1]}.",
    ),
    (r"\.norm\.", ".normalization."),
    (r"^head\.", "classifier.1."),
)
_VIT_TIMM: Rules = (
    (r"^patches\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^positions$", "pos_embed"),
    (r"^blocks\.block0?(\d+)", r"blocks.\1"),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.projection\.", ".attn.proj."),
    (r"\.dense(\d)\.", r".mlp.fc\1."),
)
_VIT_TORCHVISION: Rules = (
    (r"^patches\.", "conv_proj."),
    (r"^positions$", "encoder.pos_embedding"),
    (r"^blocks\.block0?(\d+)", r"encoder.layers.encoder_layer_\1"),
    (r"\.norm(\d)\.", r".ln_\1."),
    (r"\.attention\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attention\.projection\.", ".self_attention.out_proj."),
    (r"\.dense1\.", ".mlp.0."),
    (r"\.dense2\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
)
# Files that torchvision wrote before 0.14.
_VIT_TORCHVISION_OLD: Rules = (
    *_VIT_TORCHVISION,
    (r"\.mlp\.0\.", ".mlp.linear_1."),
    (r"\.mlp\.3\.", ".mlp.linear_2."),
)
_VIT_TRANSFORMERS: Rules = (
    (r"^patches\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^class_token$", "vit.embeddings.cls_token"),
    (r"^positions$", "vit.embeddings.position_embeddings"),
    (r"^blocks\.block0?(\d+)", r"vit.encoder.layer.\1"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attention\.qkv\.", ".attention.attention.{query,key,value}."),
    (r"\.attention\.projection\.", ".attention.output.dense."),
    (r"\.dense1\.", ".intermediate.dense."),
    (r"\.dense2\.", ".output.dense."),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
)
# A model of transformers without its last layer lacks the first part of every name.
_BARE: Rules = ((r"^(resnet|vit)\.", ""),)

# The first naming of each is the one that files are written in.
NAMINGS: dict[str, tuple[Naming, ...]] = {
    "resnet": (
        Naming("timm and torchvision", _RESNET_TIMM),
        Naming("transformers", _RESNET_TRANSFORMERS),
        Naming("transformers", _RESNET_TRANSFORMERS + _BARE),
    ),
    "vit": (
        Naming("timm", _VIT_TIMM),
        Naming("torchvision", _VIT_TORCHVISION),
        Naming("torchvision", _VIT_TORCHVISION_OLD),
        Naming("transformers", _VIT_TRANSFORMERS),
        Naming("transformers", _VIT_TRANSFORMERS + _BARE),
    ),
    "own": (Naming("dal_jax", ()),),
}

# Tensors in files that no network here needs: PyTorch's count of batches, and the layer
# that transformers puts after a ViT without its last layer.
UNUSED = re.compile(r"\.num_batches_tracked$|^(vit\.)?pooler\.dense\.(weight|bias)$")
