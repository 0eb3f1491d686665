"""Networks for the tests: with statistics that are not the identity, and a run of each kind that commands take."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from affinity.checkpoint import save_affinity_network
from affinity.cli import app as affinity
from affinity.network import AffinityNetwork
from affinity.settings import NetworkConfig as AffinityConfig
from cnnseg.cli import app as cnnseg
from cnnseg.models import create_network, create_segmentation, save_network
from cnnseg.segmentation.settings import SegmentationConfig
from cnnseg.settings import NetworkConfig
from vitseg.cli import app as vitseg
from vitseg.models import create_classifier, save_classifier
from wsss.cli import app as wsss

APPS = {"wsss": wsss, "vitseg": vitseg, "cnnseg": cnnseg, "affinity": affinity}


def make_networks(place: Path) -> None:
    """Write runs/{vit,cnn,seg}, of cat and dog, and affinity.safetensors, all of them at random."""
    torch.manual_seed(0)
    names = ("cat", "dog")
    save_classifier(create_classifier("test_vit", names, "none"), place / "runs/vit/classifier/classifier.safetensors")
    cnn = create_network(NetworkConfig(kind="classifier", architecture="test_resnet", weights="none"), names)
    save_network(cnn, place / "runs/cnn/network/last.safetensors")
    tiny = SegmentationConfig(decoder="fpn", encoder="test_resnet", weights="none")
    save_network(create_segmentation(tiny, names, "masks of one"), place / "runs/seg/network/last.safetensors")
    small = AffinityConfig(backbone="test_resnet", weights=None, levels=(1, 2), widths=(8, 8), dim=16, groups=4)
    save_affinity_network(place / "affinity.safetensors", AffinityNetwork(small))


def ready(model: nn.Module, *, biases: bool = True) -> nn.Module:
    """In float64 and evaluation mode, with statistics and scales drawn at random; without biases all of them are 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1 if biases else 0.0)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
        if not biases and isinstance(getattr(module, "bias", None), Tensor):
            nn.init.zeros_(module.bias)
    return model.double().eval()


class Normed(nn.Module):
    """A classifier with batch norm that counts in training, and pooling."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.pool = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.MaxPool2d(2)
        self.relu, self.mean = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.pool(self.relu(self.norm(self.conv1(images))))))
        return self.fc(self.mean(x).flatten(1))
