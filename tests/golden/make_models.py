"""Makes models.npz: layers and residual blocks as PyTorch 2.13 computes them.

    python tests/golden/make_models.py

Needs PyTorch, which the project itself does not. Arrays are stored in the layout of
dal_jax (NHWC images, HWIO kernels) under ``case::what``; parameters and running
statistics under ``case::before/...`` and ``case::after/...`` with the path in the
module. The scalar that gradients are taken of is ``sum(output * weights)``.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn


class Shortcut(nn.Module):
    def __init__(self, inputs, outputs, stride, norm):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x):
        return self.norm(self.convolution(x))


def conv3x3(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class Basic(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.convolution1 = conv3x3(inputs, width, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.convolution2 = conv3x3(width, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = Shortcut(inputs, width, stride, norm=True)

    def forward(self, x):
        y = torch.relu(self.norm1(self.convolution1(x)))
        return torch.relu(self.norm2(self.convolution2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.convolution2 = conv3x3(width, width, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.convolution3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = Shortcut(inputs, 4 * width, stride, norm=True)

    def forward(self, x):
        y = torch.relu(self.norm1(self.convolution1(x)))
        y = torch.relu(self.norm2(self.convolution2(y)))
        return torch.relu(self.norm3(self.convolution3(y)) + self.shortcut(x))


class PreActivation(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.convolution1 = conv3x3(inputs, width, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.convolution2 = conv3x3(width, width)
        self.projection = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x):
        activated = torch.relu(self.norm1(x))
        y = self.convolution2(torch.relu(self.norm2(self.convolution1(activated))))
        return y + self.projection(activated)


NAMES = {"running_mean": "mean", "running_var": "var"}


def to_images(array):
    return array.detach().permute(0, 2, 3, 1).numpy()


def tree(module):
    arrays = {}
    for path, value in module.state_dict().items():
        *parents, leaf = path.split(".")
        if leaf == "num_batches_tracked":
            continue
        array = value.detach().clone().numpy()
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        if leaf == "weight":
            leaf = "kernel" if array.ndim == 4 else "scale"
        arrays["/".join([*parents, NAMES.get(leaf, leaf)])] = array
    return arrays


def record(case, module, shape, steps=2):
    """Runs training steps, then one evaluation."""
    arrays = {}
    for parameter in module.parameters():
        # Away from the initial 0 and 1 of batch norm, which hide mistakes.
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for path, value in tree(module).items():
        arrays[f"before/{path}"] = value
    for step in range(steps):
        images = (1.5 * torch.randn(shape) + 0.5).requires_grad_()
        output = module.train()(images)
        weights = torch.randn_like(output)
        (output * weights).sum().backward()
        arrays[f"images{step}"] = to_images(images)
        arrays[f"weights{step}"] = to_images(weights)
        arrays[f"output{step}"] = to_images(output)
        arrays[f"gradient{step}"] = to_images(images.grad)
    for path, value in tree(module).items():
        arrays[f"after/{path}"] = value
    arrays["evaluated"] = to_images(module.eval()(images))
    return {f"{case}::{name}": value for name, value in arrays.items()}


def main():
    torch.manual_seed(0)
    shape = (3, 4, 6, 5)
    arrays = {
        **record("batch_norm", nn.BatchNorm2d(4), shape),
        **record("basic", Basic(4, 6, 2), shape),
        **record("bottleneck", Bottleneck(4, 2, 2), shape),
        **record("pre_activation", PreActivation(4, 6, 2), shape),
        **record("max_pool", nn.MaxPool2d(2), shape, steps=1),
        **record("overlapping_max_pool", nn.MaxPool2d(3, 2, 1), shape, steps=1),
        **record("convolution7", nn.Conv2d(4, 2, 7, 2, 3, bias=False), shape, steps=1),
    }
    np.savez_compressed(Path(__file__).with_name("models.npz"), **arrays)


if __name__ == "__main__":
    main()
