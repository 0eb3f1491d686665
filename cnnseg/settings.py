"""Settings of the commands; importing them costs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from wsss.explanation_tests import settings as explanation_tests
from wsss.settings import Config, MixedPrecision

BEST, LAST = "best.safetensors", "last.safetensors"
"""Names of the checkpoints in the stage folder ``network`` of a run."""

STAGE, STATE = "network", "resume.pt"
"""The stage of a run that holds a training, and the file in it that a killed one goes on from."""

CHOSEN = "chosen on the validation split, so optimistic there; the headline is last"
"""What is said of `BEST` wherever it is shown."""

BACKGROUND_CLASS = 0
"""The output of every network that belongs to the background; output c is class c."""

Kind = Literal[
    "unrolled",
    "unrolled_pixels",
    "ws_ae",
    "free_convolutions",
    "nearest_upsampling",
    "unet",
    "multitask_unet",
    "fcn",
    "classifier",
]

NETWORKS: dict[str, str] = {
    "unrolled": "unrolled LRP-0, read at strides 32 to 4: all weights tied, a branch for each class",
    "unrolled_pixels": "unrolled LRP-0 down to the pixels, as the paper describes it; hardly learns to segment",
    "ws_ae": "unrolled without tied activations: ordinary ReLUs in the decoder (weight-sharing autoencoder)",
    "free_convolutions": "unrolled, the decoder with its own convolutions, which start as the encoder's; learns sooner",
    "nearest_upsampling": "unrolled without tied up-sampling: nearest neighbour instead of un-pooling and strides",
    "unet": "U-Net, trained with the segmentation loss alone",
    "multitask_unet": "U-Net with a classifier on its bottleneck, trained with both losses",
    "fcn": "U-Net without skip connections, trained with the segmentation loss alone",
    "classifier": "the classifier alone, trained with the classification loss alone",
}
"""Every network that the training loop takes (Yu et al. 2024, tables 1 and 3), with a line for the list."""

READ_AT: dict[str, tuple[int, ...]] = {"unrolled": (32, 16, 8, 4)}
"""Strides at which unrolled networks are read unless told otherwise; those that are not named, at the image alone."""

PIXELS = "pixels"
"""The layer of a network that the image itself is."""

RULES = "zero"
"""The composite that makes the seeds of a classifier's lrp, unless another one is given."""

LRP_STRIDE = 8
"""Seeds of a classifier's lrp are of the last layer with a value for so many pixels, unless another one is given."""

_AS_BEFORE = (("rules", None), ("rules", "zero"), ("layer", None), ("layer", PIXELS))

Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class NetworkConfig(Config):
    """Which network is trained, and where its weights start."""

    kind: Kind = "unrolled"
    """kind of network, see list-networks"""
    architecture: str = "resnet50"
    """CNN of the encoder: timm's or torchvision's name; resnet50_v1 is a ResNet-50 version 1 (stride in the first 1x1
    convolution)"""
    weights: str = "pretrained"
    """where the encoder starts: 'pretrained' (ImageNet weights, fetched by timm), 'none', or a file of weights"""
    classifier: str | None = None
    """where the encoder starts instead: a classifier of train-classifier, a run or a file"""
    baseline: Literal["black", "mean"] = "black"
    """colour that has no relevance in unrolled networks that are read at the image: black (the paper's code: RGB
    values times gradient), or ImageNet's mean colour (normalised values times gradient)"""
    strides: tuple[PositiveInt, ...] | None = None
    """where unrolled networks read relevance out: at a layer of each of these strides (pixels a cell), coarsest first;
    1 is the image; unless given, 32 16 8 4 for unrolled, 1 for the others"""
    stride_layers: Literal["first", "last"] = "last"
    """which layer of each stride but the coarsest; at the last one relevance may lie on every other cell alone"""
    stride_weights: tuple[PositiveFloat, ...] | None = None
    """weight of each of them in the heat-maps; 1 for the first and 0.5 for the others unless given"""
    learn_weights: bool = False
    """these weights are learnt"""
    readout: Literal["sum", "mean", "asinh"] | None = None
    """how heat-maps are made of relevance: sum (as it is), mean (times the number of cells), asinh (of that); asinh
    unless given, sum at the image alone"""
    smooth: bool = False
    """average relevance over neighbouring cells at all strides but the first, see cnnseg.unroll"""
    features: Literal["constant", "trained"] | None = None
    """whether the segmentation loss reaches the layers below a stride, through the features that relevance is of;
    trained unless given, constant at the image alone"""
    rules: str | None = None
    """composite of propagation rules of unrolled networks, see list-rules; LRP-0 if not given; not with a baseline"""
    classes_at_once: int | None = Field(None, ge=1)
    """decoder branches of unrolled networks that are held in memory at once; all of them if not given"""


class TrainConfig(Config):
    """One training: Yu et al.'s recipe (section 3), where it gives one."""

    budget: int | None = Field(None, ge=0)
    """number of training images whose masks are used; all that there are if not given; 0: image-level labels alone"""
    budget_seed: int = Field(0, ge=0)
    """seed of the choice of those images, the same for all networks and trainings that are compared"""
    budget_rule: Literal["even", "deficit"] = "even"
    """how they are chosen: even (classes as even as the data allow), deficit (drawn for the class that lacks most, as
    Yu et al.'s code does)"""
    steps: int = Field(20000, ge=1)
    """optimiser steps"""
    batch_size: int = Field(10, ge=1)
    """images in a step"""
    mask_share: float = Field(0.5, gt=0, le=1)
    """share of each batch that has masks, if the network classifies; networks that do not see masked images alone"""
    crop: int = Field(256, ge=32)
    """side of the square crops"""
    squares: bool = False
    """crops are the largest square of each image at a random place, resized, as in the paper's code; if not, windows of
    the image at a random magnification, scale_min to scale_max"""
    scale_min: float = Field(0.5, gt=0)
    """smallest random magnification; not with squares"""
    scale_max: float = Field(2.0, gt=0)
    """largest random magnification; not with squares"""
    flip: bool = True
    """mirror half of the images"""
    colour_jitter: float = Field(0.3, ge=0, lt=1)
    """strength of the random brightness, contrast and saturation; a third of it for hue"""
    lr: float = Field(1e-5, gt=0)
    """learning rate"""
    head_lr_factor: float = Field(1, gt=0)
    """learning rate of layers that start at random, in multiples of lr"""
    schedule: Literal["constant", "cosine"] = "constant"
    """how the learning rate goes: constant as in the paper, or half a cosine down to 0"""
    warmup: int = Field(0, ge=0)
    """steps of linear warm-up"""
    weight_decay: float = Field(0.01, ge=0)
    """weight decay of AdamW"""
    classification_weight: float = Field(1, ge=0)
    """weight of the classification loss"""
    segmentation_weight: float = Field(1, ge=0)
    """weight of the segmentation loss"""
    clip: float | None = Field(None, gt=0)
    """largest norm of the gradient; none if not given"""
    frozen_statistics: bool = True
    """the encoder's batch norm keeps its ImageNet statistics instead of those of each batch"""
    precision: MixedPrecision = "float32"
    """bfloat16: autocast to it (twice as fast on CPUs and GPUs that have it)"""
    evaluate_every: int = Field(1000, ge=1)
    """steps between evaluations on the validation split"""
    evaluate_images: int | None = Field(None, ge=1)
    """images of the validation split used while training, evenly spread; all if not given"""
    evaluate_size: int | None = Field(None, ge=32)
    """evaluate images resized to about this side (square of equal area); native size if not given"""
    snapshots: tuple[str, ...] = ()
    """ids of images whose heat-maps are kept at every evaluation, for pictures"""
    save_every: int = Field(500, ge=1)
    """steps between saves of the state that a killed training goes on from"""
    seed: int = Field(0, ge=0)
    """seed of new layers, the order of the images and their augmentation"""

    @property
    def identity(self) -> dict[str, Any]:
        """What a manifest says of the settings: all that changes the result.

        Options that came later are left out where they say what was done before there were any.
        """
        found = self.model_dump(mode="json", exclude={"save_every"})
        return {key: value for key, value in found.items() if (key, value) != ("budget_rule", "even")}


class SeedConfig(Config):
    """How class maps become seeds."""

    method: str = "lrp"
    """explanation: lrp, cam, gradcam, layercam, input_x_gradient, integrated_gradients"""
    rules: str | None = None
    """composite of lrp's rules, of a classifier; a network of train-unrolled keeps the rule that it was trained with"""
    layer: str | None = None
    """lrp: layer such as layer3 whose relevance is mapped, or pixels; unless given, of a classifier the last layer of
    stride 8, of a network of train-unrolled where it is read; gradcam and layercam: layer that is weighed, the last one
    with spatial maps unless given"""
    scores: Literal["relevance", "softmax"] = "relevance"
    """relevance: positive relevance, averaged over cells and scaled; softmax: probabilities among background and the
    image's classes, averaged over cells, of a network trained with masks"""
    sizes: Sizes = (224, 320, 448)
    """the image is explained at each of these sizes (side of the square of equal area) and the maps are averaged"""
    flip: bool = True
    """average with the map of the mirrored image"""
    cell: int = Field(16, ge=1)
    """side in pixels of the cells over which maps are averaged, if they are finer"""
    power: float | None = Field(None, gt=0)
    """the scaled map is raised to this power; unless given, the usual one of the method and its rules"""
    percentile: float = Field(100, gt=0, le=100)
    """the scale's upper end; what lies above it is clipped at 1"""

    @property
    def exponent(self) -> float:
        """The power, given or usual.

        Chosen so that the alpha rule at 8, where a score of 0.19 beats the background, cuts near the best threshold:
        measured on training images for relevance, cam and layercam; a probability of 1/2 to the power of 2.4 is 0.19.
        """
        if self.power is not None:
            return self.power
        if self.scores == "softmax":
            return 2.4
        if self.method == "lrp" and self.rules not in (None, "zero"):
            return 0.5
        if self.method in ("cam", "gradcam"):
            return 1.0
        return 0.75 if self.layer in (None, PIXELS) and self.method != "layercam" else 0.85

    @property
    def identity(self) -> dict[str, object]:
        """What a manifest says of the settings: all that changes the maps.

        Options that came later are left out where they say what was done before there were any.
        """
        found = {**self.model_dump(mode="json"), "power": self.exponent}
        return {key: value for key, value in found.items() if (key, value) not in _AS_BEFORE}


class EvaluationConfig(explanation_tests.EvaluationConfig):
    """What the perturbation test and the segmentation test of CNNs share."""

    rules: tuple[str, ...] = ("epsilon_plus",)
    """composites of propagation rules, names separated by spaces: every method that takes rules is run once for each"""
    layer: str | None = None
    """layer that methods which look at one look at, by its name in the model; their usual one if not given"""
    size: int | None = Field(None, ge=1)
    """side of the square that images are squeezed to; unless given, what the CNN was made for, mostly 224"""


class ExplainConfig(Config):
    """How a photograph is explained by a CNN."""

    method: str = "lrp"
    """explanation method, see list-methods"""
    rules: str | None = None
    """composite of propagation rules, of lrp, see list-rules; cnnseg.explain's own default if not given"""
    layer: str | None = None
    """layer whose maps are weighed, of gradcam and layercam, by its name in the model; the last one if not given"""
    size: int | None = Field(None, ge=1)
    """the photograph is explained at about this size (side of the square of equal area); unless given, what the CNN was
    made for, mostly 224"""
    precision: Literal["float32", "float64"] = "float32"
    """precision of model and image"""
