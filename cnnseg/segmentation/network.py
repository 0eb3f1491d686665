"""The networks: an encoder, a decoder of segmentation-models-pytorch, and a classifier on the encoder's last map."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnseg.classifiers import FIRST_VERSION, normalisation
from cnnseg.segmentation.settings import DECODERS, SegmentationConfig
from wsss.backbones import PACKAGE, quiet, strides_first
from wsss.backbones import read_weights as read_timm_weights
from wsss.errors import InputError, did_you_mean, near_name
from wsss.extras import extra
from wsss.fetching import fetching
from wsss.weights import fitting, read_weights

with extra("cnnseg"):
    import segmentation_models_pytorch as smp

TIMM = "tu-"
"""What segmentation-models-pytorch puts before the names of timm's models."""

_COARSER = {"pan": 8, "dpt": 2}
"""Decoders that halve the encoder's last map further, so that it must be divisible by so much."""


POOLING = ("deeplabv3", "deeplabv3plus", "pan", "upernet")
"""Decoders that pool to one value an image in front of a batch norm, which needs more than one to train."""


class SegmentationNetwork(nn.Module):
    """``network(images, decode=None)`` gives (logits (B, C+1), maps (B', C+1, H, W)), both float32.

    `images` are normalised, (B, 3, H, W), of any size: they are filled up by repeating the border to a multiple of
    ``multiple``, and the maps cut again. Maps are those of the first `decode` images, of all if not given; with 0 they
    are None. The class scores of the whole image come from a linear layer on the encoder's averaged last map, so that
    image-level labels reach the encoder and leave the decoder alone.
    """

    classifies, segments = True, True

    def __init__(self, model: smp.base.SegmentationModel, multiple: int) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.segmentation_head, self.classification_head = model.segmentation_head, model.classification_head
        self.multiple = multiple

    def forward(self, images: Tensor, decode: int | None = None) -> tuple[Tensor, Tensor | None]:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        features = self.encoder(padded)
        tokens: tuple[list[Tensor | None], ...] = ()
        if isinstance(features, tuple):  # of a ViT: maps, and the class tokens that belong to them
            features, prefixes = features
            tokens = ([None if prefix is None else prefix[:decode] for prefix in prefixes],)
        logits = self.classification_head(features[-1]).float()
        if decode == 0:
            return logits, None
        maps = self.segmentation_head(self.decoder([level[:decode] for level in features], *tokens))
        return logits, maps[..., :height, :width].float()


def create_module(config: SegmentationConfig, outputs: int, *, load_weights: bool = True) -> SegmentationNetwork:
    """A network with `outputs` classes, background included; decoder and heads are at random.

    Args:
        load_weights: False: the encoder is at random too, for a checkpoint to fill.

    Raises:
        InputError: an unknown decoder or encoder, an encoder without the feature maps that the decoder needs, or
            weights that cannot be had or are of another model.
    """
    if config.decoder not in DECODERS:
        raise InputError(f"`decoder` {config.decoder}: no such decoder; {did_you_mean(config.decoder, DECODERS)}")
    name, version_1 = encoder_name(config.encoder, vit=config.decoder == "dpt")
    weights = config.weights if load_weights else "none"
    options, own_file = _encoder_options(config, name, weights)
    if config.width is not None:
        options |= _widths(config.decoder, config.width)
    if config.decoder == "dpt":
        options |= {"dynamic_img_size": True, "num_classes": 0}
    aux = {"classes": outputs, "pooling": "avg", "dropout": None}
    try:
        with warnings.catch_warnings(), quiet(), fetching(weights == "pretrained"):
            warnings.simplefilter("ignore")  # of deprecated names
            model = smp.create_model(config.decoder, name, in_channels=3, classes=outputs, aux_params=aux, **options)
    except OSError as error:
        raise InputError(
            f"`weights` pretrained: those of {config.encoder} could not be fetched ({_first_line(error)}); give "
            "a file, or package:NAME of an EfficientNet-Lite"
        ) from None
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError) as error:
        if config.width is not None:
            create_module(config.model_copy(update={"width": None}), outputs, load_weights=False)  # its own fault?
            raise InputError(
                f"`width` {config.width}: `decoder` {config.decoder} does not come so wide ({_first_line(error)}); "
                "a multiple of 64 fits them all"
            ) from None
        raise InputError(
            f"`encoder` {config.encoder}: does not give the feature maps that `decoder` {config.decoder} needs "
            f"({_first_line(error)}); {_advice(config.decoder)}"
        ) from None
    if version_1 and not strides_first(model.encoder):
        raise InputError(f"`encoder` {config.encoder}: {name} is no ResNet of bottlenecks and has no version 1")
    if own_file is not None:
        given, own = read_weights(own_file, "weights"), model.encoder.state_dict()
        state = fitting(given, own, source=f"`weights` {own_file}", of=config.encoder)
        model.encoder.load_state_dict(state, strict=False)  # counters of batch norm may be missing
    network = SegmentationNetwork(model, int(model.encoder.output_stride) * _COARSER.get(config.decoder, 1))
    return network.to(memory_format=torch.channels_last)  # convolutions are faster so, on CPUs and GPUs


def encoder_name(name: str, *, vit: bool = False) -> tuple[str, bool]:
    """What segmentation-models-pytorch calls an encoder, and whether it is a ResNet version 1.

    Raises InputError if neither that library nor timm knows it.
    """
    known, base = smp.encoders.get_encoder_names(), name.removesuffix(FIRST_VERSION)
    version_1 = base != name and name not in known and not timm.is_model(name)
    plain = (base if version_1 else name).removeprefix(TIMM)
    if plain in known and not vit and not name.startswith(TIMM):
        return plain, version_1
    if timm.is_model(plain):
        return f"{TIMM}{plain}", version_1
    if vit and plain in known:
        raise InputError(f"`encoder` {name}: expected a ViT of timm; {_advice('dpt')}")
    near = near_name(name, [*known, *timm.list_models()])
    raise InputError(f"`encoder` {name}: unknown to segmentation-models-pytorch and to timm: {near or 'try resnet50'}")


def encoder_colours(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of RGB in [0, 1] that an encoder was pre-trained with; ImageNet's if unknown."""
    plain, _ = encoder_name(name)
    return normalisation(plain.removeprefix(TIMM))


def _encoder_options(config: SegmentationConfig, name: str, weights: str) -> tuple[dict[str, Any], Path | None]:
    """Options for segmentation-models-pytorch, and the file that its own encoders are to be filled from."""
    if weights == "none":
        return {"encoder_weights": None}, None
    of_timm = name.startswith(TIMM)
    if weights == "pretrained":
        if config.encoder.endswith(FIRST_VERSION) and not of_timm:
            raise InputError(f"`weights` pretrained: there are none of {config.encoder}; give a file")
        return {"encoder_weights": True if of_timm else "imagenet"}, None
    if not of_timm:
        if weights.startswith(PACKAGE):
            raise InputError(f"`weights` {weights}: holds an EfficientNet-Lite of timm, not a {config.encoder}")
        return {"encoder_weights": None}, Path(weights)
    # timm itself puts the state into the model: it renames what an encoder names otherwise, and drops the head.
    overlay: Mapping[str, Any] = {"state_dict": read_timm_weights(name.removeprefix(TIMM), weights)}
    return {"encoder_weights": True, "pretrained_cfg_overlay": overlay}, None


def _widths(decoder: str, width: int) -> dict[str, Any]:
    """What segmentation-models-pytorch calls the widths of a decoder; narrower maps in its own proportions."""
    match decoder:
        case "unet" | "unetplusplus" | "manet":
            return {"decoder_channels": tuple(max(8, width >> level) for level in range(5))}
        case "dpt":
            part = width // 4
            return {
                "decoder_fusion_channels": part,
                "decoder_intermediate_channels": (part, width // 2, width, width),
            }
        case "fpn":
            return {"decoder_pyramid_channels": width, "decoder_segmentation_channels": width // 2}
        case "segformer":
            return {"decoder_segmentation_channels": width}
        case "pspnet":
            return {"psp_out_channels": width}
        case "linknet":
            raise InputError("`width`: linknet's decoder has no width of its own; its maps are the encoder's")
    return {"decoder_channels": width}


def _advice(decoder: str) -> str:
    if decoder == "dpt":
        return "dpt takes ViTs of timm, such as vit_tiny_patch16_224"
    return "take a CNN or a pyramid such as mit_b0, or `decoder` dpt for a ViT"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
