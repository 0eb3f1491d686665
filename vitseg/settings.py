"""Settings of the commands; importing them costs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from wsss.explanation_tests import settings as explanation_tests
from wsss.settings import Config, MixedPrecision

CHECKPOINT = "classifier.safetensors"
"""Name of a finished classifier in its stage folder."""

STATE = "resume.pt"
"""What a training that was killed goes on from, beside it."""

Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class ClassifierConfig(Config):
    """Fine-tuning of a classifier."""

    architecture: str = "vit_tiny_patch16_224"
    """timm's name of a ViT or Hybrid-ViT; or TRUNK+VIT, a CNN of timm in place of the patches of a ViT of timm (the
    trunk of resnet50_v1+vit_tiny_patch16_224 is a ResNet-50 version 1: stride in the first 1x1 convolution)"""
    weights: str = "pretrained"
    """where the training starts: 'pretrained' (fetched by timm), 'none', or a file of weights; of TRUNK+VIT, the ViT"""
    trunk_weights: str | None = None
    """where the trunk of TRUNK+VIT starts: likewise; 'pretrained' if not given"""
    sizes: Sizes = (224, 288, 352, 384)
    """sides of the square inputs; every batch draws one; the last is the size of the evaluation"""
    crop_min: float = Field(0.4, gt=0, le=1)
    """smallest share of the image's area in a random crop; 1: the whole image, squeezed to the square"""
    flip: bool = True
    """mirror half of the images"""
    colour_jitter: float = Field(0.3, ge=0, lt=1)
    """strength of the random brightness, contrast and saturation; a sixth of it for hue"""
    epochs: int = Field(12, ge=1)
    """passes over the images"""
    batch_size: int = Field(16, ge=1)
    """images in a step"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """optimiser (sgd with momentum 0.9)"""
    lr: float = Field(1e-4, gt=0)
    """highest learning rate"""
    head_lr_factor: float = Field(1, gt=0)
    """learning rate of the layers that start at random (head, projection of TRUNK+VIT), in multiples of lr"""
    trunk_lr_factor: float = Field(1, gt=0)
    """learning rate of a hybrid's convolutional trunk, in multiples of lr; its batch norm keeps its statistics"""
    frozen_levels: int = Field(0, ge=0)
    """of TRUNK+VIT: so many levels of the trunk are not trained; 1: all up to stride 4 (stem and first stage)"""
    warmup: int = Field(50, ge=0)
    """steps of linear warm-up"""
    schedule: Literal["cosine", "poly"] = "cosine"
    """how the learning rate falls to 0: half a cosine, or (1 - t)^0.9"""
    weight_decay: float = Field(0.05, ge=0)
    """weight decay"""
    clip: float | None = Field(1.0, gt=0)
    """largest norm of a gradient; null in a YAML file: no clipping"""
    precision: MixedPrecision = "bfloat16"
    """bfloat16: autocast to it (twice as fast on CPUs and GPUs that have it)"""
    export: Literal["float16", "float32"] = "float32"
    """precision of the weights in the finished checkpoint"""
    seed: int = Field(0, ge=0)
    """seed of the new head, the order of the images and their augmentation"""


PROPAGATED = ("transformer_attribution", "lrp", "partial_lrp", "ensemble")
"""Methods that propagate relevance, whose maps the rules change (`vitseg.methods`, which loads PyTorch)."""


class SeedConfig(Config):
    """How class maps are made and scaled."""

    method: str = "transformer_attribution"
    """explanation method"""
    sizes: Sizes = (224, 320, 448)
    """the image is explained at each of these sizes (side of the square of equal area) and the maps are averaged"""
    flip: bool = True
    """average with the map of the mirrored image"""
    rules: Literal["robust", "exact"] = "exact"
    """how relevance is divided: exact (as published; better seeds of several classes), robust (well conditioned)"""
    first_block: int | None = Field(None, ge=0)
    """the rollout multiplies the blocks from this one on (published: 1); the last third of the blocks if not given"""
    attention_walk: int | None = Field(None, ge=0)
    """steps that maps are walked over the model's own attention, which spreads them over whole objects; 0: none; if not
    given, 2 for transformer_attribution and generic_attention, else 0"""
    attention_blocks: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    """blocks whose attention is walked over; from two thirds of the depth to five sixths if not given (8 9 of 12)"""
    competition: bool | None = None
    """the classes of an image compete for each patch, which keeps a person's map off the dog beside; with an attention
    walk if not given"""
    power: float | None = Field(None, gt=0)
    """the min-max scaled map is raised to this power; if not given, 0.5, as relevance is peaky and most of an object
    lies at a few per cent, and after an attention walk, which fills objects, 2"""
    percentile: float = Field(100, gt=0, le=100)
    """the scale's upper end; what lies above it is clipped at 1"""
    precision: Literal["float32", "float64"] | None = None
    """precision of model and relevance; if not given, float64 for relevance by the exact rules, which are badly
    conditioned, though it takes about twice as long on a CPU, and float32 for all else"""

    @property
    def dtype(self) -> Literal["float32", "float64"]:
        """The precision, given or usual: one exact seed in ten is another in float32 (docs/conditioning.md)."""
        if self.precision is not None:
            return self.precision
        return "float64" if self.rules == "exact" and self.method in PROPAGATED else "float32"

    @property
    def walk_steps(self) -> int:
        """The steps of the attention walk, given or usual: measured on training images (docs/better_masks.md)."""
        if self.attention_walk is not None:
            return self.attention_walk
        return 2 if self.method in ("transformer_attribution", "generic_attention") else 0

    @property
    def competes(self) -> bool:
        """Whether the classes of an image compete, as given or usual."""
        return bool(self.walk_steps) if self.competition is None else self.competition

    @property
    def exponent(self) -> float:
        """The power, given or usual: such that the alpha rule at 8 cuts near the best threshold of training images."""
        if self.power is not None:
            return self.power
        return 2.0 if self.walk_steps else 0.5

    @property
    def identity(self) -> dict[str, object]:
        """What a manifest says of the settings: all that changes the maps.

        The options of walk and competition are left out where there is neither, as in runs from before there were any.
        """
        settled: dict[str, object] = {"precision": self.dtype, "attention_walk": self.walk_steps}
        settled |= {"competition": self.competes, "power": self.exponent}
        found = {**self.model_dump(mode="json"), **settled}
        if not self.walk_steps and not self.competes:
            del found["attention_walk"], found["attention_blocks"], found["competition"]
        return found

    def as_begun(self, config: Mapping[str, object] | None) -> SeedConfig:
        """These settings, where nobody asked for others as seeds were begun: without a walk, in single precision.

        Args:
            config: what the manifest of the seeds says of their settings, None if there are none yet.
        """
        begun: dict[str, object] = {}
        if self.attention_walk is None and config is not None and "attention_walk" not in config:
            begun["attention_walk"] = 0
        if self.precision is None and config is not None and "precision" in config:
            begun["precision"] = config["precision"]
        return self.model_copy(update=begun)


class ExplainConfig(Config):
    """How a photograph is explained: one of two presets, and what is to differ from it."""

    preset: Literal["plain", "seed"] = "plain"
    """plain: one pass at the size that the model was made for, the same map as vitseg.explain and the tests of
    explanations; seed: as vitseg seeds makes it, several sizes with the mirror image, spread over whole objects. The
    options below change single settings of either"""
    method: str = "transformer_attribution"
    """explanation method, see list-methods"""
    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """the photograph is explained at each of these sizes (side of the square of equal area) and the maps are averaged;
    plain: the model's own size, seed: 224 320 448"""
    flip: bool | None = None
    """average with the map of the mirrored photograph; plain: no, seed: yes"""
    rules: Literal["robust", "exact"] | None = None
    """how relevance is divided: robust (well conditioned; plain), exact (as published; seed)"""
    first_block: int | None = Field(None, ge=0)
    """the rollout multiplies the blocks from this one on; plain: the method's own, seed: the last third"""
    attention_walk: int | None = Field(None, ge=0)
    """steps that maps are walked over the model's own attention; plain: 0, the explanation itself, seed: 2 for
    transformer_attribution and generic_attention"""
    attention_blocks: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    """blocks whose attention is walked over; from two thirds of the depth to five sixths if not given (8 9 of 12)"""
    competition: bool | None = None
    """the classes that are explained compete for each patch; plain: no, seed: with an attention walk"""
    power: float | None = Field(None, gt=0)
    """the min-max scaled map is raised to this power; plain: 1, seed: 2 after an attention walk, else 0.5"""
    percentile: float = Field(100, gt=0, le=100)
    """the scale's upper end; what lies above it is clipped at 1"""
    precision: Literal["float32", "float64"] | None = None
    """precision of model and relevance; if not given, float64 for relevance by the exact rules, else float32"""

    def settled(self, side: int, first_block: int) -> SeedConfig:
        """All settings, those of the preset where nobody asked for others.

        Args:
            side: of the square that the model was made for, in pixels.
            first_block: the method's own in that model.
        """
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        plain = {"sizes": (side,), "flip": False, "rules": "robust", "first_block": first_block}
        plain |= {"attention_walk": 0, "competition": False, "power": 1}
        return SeedConfig(**(plain | given if self.preset == "plain" else given))


class EvaluationConfig(explanation_tests.EvaluationConfig):
    """What the perturbation test and the segmentation test of ViTs share."""

    rules: Literal["robust", "exact"] = "robust"
    """propagation rules of the methods that need them: 'exact' as published, 'robust' well conditioned in float32"""
    first_block: int | None = Field(None, ge=0)
    """the rollout multiplies the blocks from this one on; the method's own usual value if not given"""
