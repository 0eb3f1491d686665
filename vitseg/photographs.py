"""One photograph explained as `vitseg explain` does it, from Python."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitseg.methods import find_method
from vitseg.models import Classifier
from vitseg.seeds import class_maps
from vitseg.settings import ExplainConfig, SeedConfig
from wsss.errors import InputError
from wsss.explanation import Explanation, class_targets, evaluating
from wsss.maps import input_size
from wsss.settings import validation_line


def explain_photograph(
    model: VisionTransformer | Classifier,
    photograph: Image.Image,
    targets: int | Sequence[int] | None = None,
    method: str = "transformer_attribution",
    *,
    preset: str = "plain",
    **options: Any,
) -> Explanation:
    """Explain class scores of a whole photograph, in its own proportions: the map that `vitseg explain` draws.

    Args:
        model: timm VisionTransformer made with ``dynamic_img_size=True``, whose ``pretrained_cfg`` says how images are
            normalised, or a `vitseg.models.Classifier`; left as found.
        photograph: RGB, of any size.
        targets: class index, or K of them; the top class unless given.
        method: name of a method (``vitseg.methods.METHODS``).
        preset: "plain", the map of `vitseg.explain` for the photograph at the model's own size; or "seed", what
            `vitseg seeds` makes of it: three sizes and their mirror images, walked over the attention.
        options: single settings that are to differ from the preset, as in `vitseg.settings.ExplainConfig` (``sizes``,
            ``flip``, ``rules``, ``first_block``, ``attention_walk``, ``power``, ...).

    Returns:
        Maps (1, h, w), of K targets (1, K, h, w), each scaled to [0, 1]; logits of the pass at the largest size.

    Raises:
        InputError: an unknown method, preset or option, targets out of range, or as `vitseg.explain`.

    Example:
        >>> import timm, vitseg
        >>> from PIL import Image
        >>> model = timm.create_model("vit_tiny_patch16_224", pretrained=True, dynamic_img_size=True)
        >>> vitseg.explain_photograph(model, Image.open("cat.jpg"), 281).maps.shape
        torch.Size([1, 11, 17])
    """
    try:
        wanted = ExplainConfig(method=method, preset=preset, **options)
    except ValidationError as error:
        raise InputError(validation_line(error)) from None
    classifier = model if isinstance(model, Classifier) else _classifier(model)
    config = settings_for(classifier, wanted)
    classifier = _in_precision(classifier, getattr(torch, config.dtype))
    device = str(next(classifier.model.parameters()).device)
    image = photograph.convert("RGB")
    logits = class_scores(classifier, image, config, device=device)[None]
    several = targets is not None and not isinstance(targets, int)
    chosen, _ = class_targets([targets] if several else targets, logits)
    maps = class_maps(classifier, [image], chosen.tolist(), config, device=device)[0]
    if not np.isfinite(maps).all():
        raise InputError(f"photograph: the {method} map is not finite; try precision='float64'")
    found = torch.from_numpy(maps)[None]
    if several:
        return Explanation(found, chosen, logits, method)
    return Explanation(found[:, 0], chosen[:, 0], logits, method)


def settings_for(classifier: Classifier, config: ExplainConfig) -> SeedConfig:
    """All settings, those of the preset where nobody asked for others, for this model."""
    method = find_method(config.method)
    side = max(classifier.model.patch_embed.img_size)
    return config.settled(side, method.first_block(len(classifier.model.blocks)))


def class_scores(classifier: Classifier, image: Image.Image, config: SeedConfig, *, device: str = "cpu") -> Tensor:
    """Logits (C,) float32 of an RGB image at the largest of the sizes, on the CPU."""
    size = input_size(image, max(config.sizes), classifier.model.patch_embed.feat_ratio(as_scalar=False))
    inputs = classifier.prepare(image, size)[None].to(device, getattr(torch, config.dtype))
    with torch.inference_mode(), evaluating(classifier.model):
        return classifier.model(inputs)[0].float().cpu()


def _classifier(model: VisionTransformer) -> Classifier:
    if not isinstance(model, VisionTransformer):
        raise InputError(f"model: expected a timm VisionTransformer or a Classifier, got a {type(model).__name__}")
    if not model.dynamic_img_size:
        raise InputError("model: takes one size alone; expected timm.create_model(..., dynamic_img_size=True)")
    settings = getattr(model, "pretrained_cfg", None)
    if not settings:
        raise InputError("model: has no pretrained_cfg of timm; expected a vitseg.models.Classifier with mean and std")
    names = tuple(map(str, range(model.num_classes)))
    return Classifier(model, type(model).__name__, names, tuple(settings["mean"]), tuple(settings["std"]))


def _in_precision(classifier: Classifier, dtype: torch.dtype) -> Classifier:
    """The classifier in that precision: itself, or a copy, as the caller's stays as it is."""
    if next(classifier.model.parameters()).dtype == dtype:
        return classifier
    model = copy.deepcopy(classifier.model).to(dtype)
    return Classifier(model, classifier.architecture, classifier.class_names, classifier.mean, classifier.std)
