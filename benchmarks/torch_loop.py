"""The same networks and recipe as a plain PyTorch program, for comparison.

Written as a PyTorch user would write it: a map-style Dataset with its transforms, a
DataLoader, a module, ``torch.optim.SGD``, an eager loop. No code of dal_jax is used.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a program trains, with what."""

    model: str
    image_shape: tuple[int, int, int]
    batch_size: int
    flip: bool
    crop_padding: int
    learning_rate: float
    momentum: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Way:
    """How a PyTorch program runs."""

    workers: int | None = 0  # of the DataLoader; None: batches made beforehand
    compiled: bool = False
    channels_last: bool = False
    bfloat16: bool = False


def available_device() -> torch.device:
    """Returns the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_epoch(
    recipe: Recipe, way: Way, images: np.ndarray, labels: np.ndarray
) -> Callable[[], None]:
    """Returns what trains one epoch on uint8 images ``[N, H, W, C]``."""
    device = available_device()
    model = _model(recipe).to(device)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    # Fixed sizes: as anyone who tunes a GPU's convolutions would.
    torch.backends.cudnn.benchmark = True
    forward = torch.compile(model) if way.compiled else model
    batches = _batches(recipe, way, images, labels, device)

    def epoch() -> None:
        model.train()
        for inputs, targets in batches:
            inputs = inputs.to(device, non_blocking=True, memory_format=layout)
            targets = targets.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=way.bfloat16):
                loss = nn.functional.cross_entropy(forward(inputs), targets)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


class _Images(torch.utils.data.Dataset):
    def __init__(self, recipe: Recipe, images: np.ndarray, labels: np.ndarray):
        self._recipe = recipe
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(labels.astype(np.int64))
        pixels = self._images.float() / 255
        self._mean = pixels.mean((0, 2, 3)).reshape(-1, 1, 1)
        self._std = pixels.std((0, 2, 3)).reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self._images[i].float() / 255
        padding = self._recipe.crop_padding
        if padding:
            height, width = image.shape[1:]
            top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
            padded = nn.functional.pad(image, (padding,) * 4)
            image = padded[:, top : top + height, left : left + width]
        if self._recipe.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image - self._mean) / self._std, self._labels[i]


def _batches(
    recipe: Recipe,
    way: Way,
    images: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
):
    loader = torch.utils.data.DataLoader(
        _Images(recipe, images, labels),
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=way.workers or 0,
        persistent_workers=bool(way.workers),
        pin_memory=device.type == "cuda",
    )
    if way.workers is not None:
        return loader
    return [(x.to(device), y.to(device)) for x, y in loader]


def _model(recipe: Recipe) -> nn.Module:
    height, width, channels = recipe.image_shape
    if recipe.model == "resnet18":
        return _ResNet18(channels)
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class _ResNet18(nn.Module):
    def __init__(self, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512)):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        )
        blocks = [
            _Block(channels[0], channels[0], 1),
            _Block(channels[0], channels[0], 1),
        ]
        for before, after in itertools.pairwise(channels):
            blocks += [_Block(before, after, 2), _Block(after, after, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
