"""A network that knows colours and a photograph of them, small enough for the explorer's tests to be quick."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnnseg.explorer.foreign import Maps
from cnnseg.models import Network

NAMES = ("background", "red", "green", "blue")
SIZE = (120, 160)


class Colours(nn.Module):
    """Images (B, 3, H, W), normalised to a mean of 0, to maps (B, 4, H, W): grey, red, green, blue."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            for layer, weight in ((self.encoder[0], _sides()), (self.encoder[2], torch.eye(6))):
                layer.weight.mul_(0.05)
                layer.weight[:, :, 1, 1] += weight
                layer.bias.zero_()
            self.decoder[1].weight.mul_(0.05)
            self.decoder[1].weight[:, :, 1, 1] += torch.eye(6)
            self.decoder[1].bias.zero_()
            self.head.weight.copy_(_answers()[..., None, None])
            self.head.bias.copy_(torch.tensor([1.2, 0.0, 0.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(images)))


def _sides() -> Tensor:
    """Each colour above and below its mean, (6, 3)."""
    return torch.cat([torch.eye(3), -torch.eye(3)])


def _answers() -> Tensor:
    """(4, 6): a colour speaks for its class, and the others against it."""
    own = 2 * torch.eye(3) - torch.ones(3, 3)
    return torch.cat([torch.zeros(1, 6), torch.cat([own, -own], 1)])


def colour_network() -> Network:
    """The network as those of this toolkit are."""
    module = Maps(Colours()).eval()
    return Network(module, "model", "colours", NAMES[1:], (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def photograph() -> np.ndarray:
    """Grey, with a red square, a green disc and a blue bar: uint8 (120, 160, 3)."""
    rows, columns = np.indices(SIZE)
    image = np.full((*SIZE, 3), 128, np.uint8)
    image[20:60, 16:64] = (230, 40, 40)
    image[(rows - 44) ** 2 + (columns - 116) ** 2 < 26**2] = (40, 220, 50)
    image[88:108, 12:148] = (40, 50, 230)
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
