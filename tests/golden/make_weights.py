"""Makes weights.npz: what timm, torchvision and transformers compute, on few numbers.

    python tests/golden/make_weights.py

Needs PyTorch, timm, torchvision and transformers, which the project does not; the file
was made with PyTorch 2.14.1, timm 1.0.31, torchvision 0.29.1 and transformers 5.24.0.
Every tensor of a network is drawn by :func:`draw` from its name and shape, here and in
the test, so that only names, shapes and logits are stored. ``tensors`` is a JSON
object, in bytes, of case to name to shape; ``case::evaluated`` and ``case::trained``
are logits in both modes, ``case::after`` those in evaluation mode after the one forward
pass in training mode. A case is ``network/library`` or ``network/library/variant``.
"""

import json
import math
import tempfile
import zlib
from pathlib import Path

import numpy as np

NUM_CLASSES = 7
# Batch, height, width, channels.
RESNET_IMAGES = (4, 33, 65, 3)
SMALL_IMAGES = (4, 9, 17, 3)
VIT_IMAGES = (2, 32, 48, 3)
# A file made for square images of this size, used for VIT_IMAGES and for larger ones.
FILE_SIZE = 64
LARGER_IMAGES = (2, 80, 48, 3)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws a tensor, uniformly, the same with every version of numpy."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    size = math.prod(shape)
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(-(-size // 4))
    unit = bits.view(np.uint16)[:size].astype(np.float32).reshape(shape)
    unit = unit * np.float32(math.sqrt(12) / 2**16) - np.float32(math.sqrt(3))
    if name.endswith("running_var"):
        return 1 + 0.5 * unit
    if len(shape) == 1:
        return 0.2 * unit + (0.5 if name.endswith(".weight") else 0)
    if len(shape) in (2, 4) and name != "images":
        return unit * np.float32(math.prod(shape[1:]) ** -0.5)
    return unit


def resnets():
    """Yields case, network and images."""
    import timm
    import torch
    import torchvision
    from transformers import ResNetConfig, ResNetForImageClassification

    depths = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}
    for size in (18, 34, 50):
        name = f"resnet{size}"
        network = timm.create_model(name, num_classes=NUM_CLASSES)
        same = getattr(torchvision.models, name)(num_classes=NUM_CLASSES)
        assert shapes(network) == shapes(same)  # one case for both
        yield f"{name}/timm", network, RESNET_IMAGES
        config = ResNetConfig(
            depths=depths[size],
            hidden_sizes=[w * (4 if size == 50 else 1) for w in (64, 128, 256, 512)],
            layer_type="bottleneck" if size == 50 else "basic",
            num_labels=NUM_CLASSES,
        )
        network = ResNetForImageClassification(config)
        yield f"{name}/transformers", network, RESNET_IMAGES
    small = timm.create_model("resnet18", num_classes=NUM_CLASSES)
    small.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    small.maxpool = torch.nn.Identity()
    yield "resnet18/timm/small", small, SMALL_IMAGES


def vits():
    """Yields case and network."""
    import timm
    from torchvision.models import VisionTransformer
    from transformers import ViTConfig, ViTForImageClassification

    height, width = VIT_IMAGES[1:3]
    sizes = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
    for size in sizes:
        network = timm.create_model(
            f"vit_{size}_patch16_224", img_size=(height, width), num_classes=NUM_CLASSES
        )
        yield f"vit_{size}/timm", network
    features, heads = sizes["tiny"]
    yield (
        "vit_tiny/torchvision",
        VisionTransformer(
            image_size=FILE_SIZE,
            patch_size=16,
            num_layers=12,
            num_heads=heads,
            hidden_dim=features,
            mlp_dim=4 * features,
            num_classes=NUM_CLASSES,
        ),
    )
    config = ViTConfig(
        image_size=FILE_SIZE,
        hidden_size=features,
        num_hidden_layers=12,
        num_attention_heads=heads,
        intermediate_size=4 * features,
        num_labels=NUM_CLASSES,
    )
    yield "vit_tiny/transformers", ViTForImageClassification(config)


def resized_vits():
    """Yields case, the state of a timm network as in its file, network, images."""
    import timm

    def create(*size):
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=size, num_classes=NUM_CLASSES
        )

    from timm.models.vision_transformer import checkpoint_filter_fn

    for variant, images in (("smaller", VIT_IMAGES), ("larger", LARGER_IMAGES)):
        network = create(*images[1:3])
        state = fill(create(FILE_SIZE, FILE_SIZE))
        network.load_state_dict(checkpoint_filter_fn(state, network))
        yield f"vit_tiny/timm/{variant}", state, network, images


def shapes(network):
    """Returns the shapes of a network's tensors by name."""
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def fill(network):
    """Draws all of a network's tensors and returns them by their names in a file."""
    import torch

    if hasattr(network, "save_pretrained"):
        return fill_transformers(network)
    state = {
        name: torch.from_numpy(draw(name, tuple(tensor.shape)))
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(state)
    return state


def fill_transformers(network):
    """Does the same by way of a file: names in it are not those in memory."""
    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as directory:
        network.save_pretrained(directory)
        (path,) = Path(directory).glob("*.safetensors")
        state = {
            name: torch.from_numpy(draw(name, tuple(tensor.shape)))
            for name, tensor in load_file(path).items()
        }
        save_file(state, path, {"format": "pt"})
        network.load_state_dict(type(network).from_pretrained(directory).state_dict())
    return state


def main():
    import torch

    names, arrays = {}, {}

    def record(case, state, network, images, trains=False):
        names[case] = {name: list(tensor.shape) for name, tensor in state.items()}
        images = torch.from_numpy(draw("images", images)).permute(0, 3, 1, 2)

        def logits():
            with torch.no_grad():
                output = network(images)
            return getattr(output, "logits", output).numpy()

        arrays[f"{case}::evaluated"] = network.eval() and logits()
        if trains:
            arrays[f"{case}::trained"] = network.train() and logits()
            arrays[f"{case}::after"] = network.eval() and logits()

    for case, network, images in resnets():
        # One network for each kind of block and of stem.
        trains = "resnet50" in case or "small" in case
        record(case, fill(network), network, images, trains=trains)
    for case, network in vits():
        square = (2, FILE_SIZE, FILE_SIZE, 3)
        record(case, fill(network), network, VIT_IMAGES if "/timm" in case else square)
    for case, state, network, images in resized_vits():
        record(case, state, network, images)
    path = Path(__file__).with_name("weights.npz")
    text = np.frombuffer(json.dumps(names).encode(), np.uint8)
    np.savez_compressed(path, tensors=text, **arrays)
    for name, array in arrays.items():
        print(f"{name}: deviation {array.std():.3g}")


if __name__ == "__main__":
    main()
