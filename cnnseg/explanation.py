"""The public way to an explanation of a CNN: a model, images and targets in, maps out."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cnnseg.adapter import RegionClassifier
from cnnseg.methods import Method, Question, find_method
from cnnseg.methods.running import passes
from cnnseg.unroll.api import unroll
from cnnseg.unroll.composites import Composite, Rules, find_composite
from cnnseg.unroll.trace import trace
from wsss.errors import InputError
from wsss.explanation import (
    Explanation,
    Targets,
    check_images,
    class_targets,
    evaluating,
    fitting_channels,
    undisturbed,
    unwrap,
)
from wsss.private import private_copy

RULES = "epsilon_plus"
"""The composite of LRP unless another one is given."""


@torch.inference_mode(False)  # gradients are needed under a caller's inference_mode or no_grad as well
def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    method: str = "lrp",
    *,
    rules: Rules | None = None,
    layer: str | None = None,
) -> Explanation:
    """Explain class scores of a CNN.

    Args:
        model: a classifier that `cnnseg.unroll` takes (for cam any that `torch.fx` can follow, for the other methods
            any), in any mode, on any device; left exactly as found. Fixed statistics are used, and no dropout.
            DataParallel, DistributedDataParallel and torch.compile are taken off, and so is what prepares the images in
            a ``Sequential(Normalize(...), model)``: the map is that of ``model`` for the images as it is given them. A
            softmax or sigmoid at the end is left out where `torch.fx` can follow the model. One thread at a time
            explains a model; a caller's autocast does not matter.
        images: (B, 3, H, W) of any size, normalised as the model wants them.
        targets: class indices: None (each image's top class), one for all images, (B,), or (B, K) for K classes an
            image from one forward pass. Of a model with one output (binary, or a regression) 0 is that output, and -1
            its negative, the other class. Masks of classes (multi-hot rows) are refused.
        method: name of a method (``cnnseg.methods.METHODS``).
        rules: of lrp: the name of a composite (``cnnseg.rules.COMPOSITES``), a rule for all layers, or a mapping from
            kinds or names of layers to rules (`cnnseg.unroll.composites.Composite`); epsilon_plus unless given.
        layer: a layer or module of the model by its name (``layer3``). Of gradcam and layercam: whose output is
            weighed; the last one with spatial maps unless given. Of lrp: whose output's relevance is mapped; the
            pixels' unless given. A convolution's output is that of the batch norm that follows it, if `torch.fx` can
            follow the model; else it is a module's own, tokens of a transformer of timm on the grid of its patches.

    Returns:
        Maps of lrp, input_x_gradient and integrated_gradients have the images' size and are signed; those of lrp sum to
        the class score but for what the rules leave to biases. Those of a layer, and of cam (signed), gradcam and
        layercam (not negative) are on the layer's grid.

    Raises:
        InputError: unknown method, rules or layer, options that the method does not have, a model that cannot be
            explained (the layer is named), images or targets of a wrong type or shape.

    Example:
        >>> import cnnseg, timm, torch
        >>> model = timm.create_model("resnet50", pretrained=True)
        >>> images = torch.randn(2, 3, 224, 224)  # yours, normalised
        >>> cnnseg.explain(model, images, targets=281).maps.shape
        torch.Size([2, 224, 224])
    """
    chosen, composite = _choose(method, rules, layer)
    unwrapped = unwrap(model)
    if isinstance(unwrapped.model, VisionTransformer):
        raise InputError("model: is a vision transformer of timm; vitseg.explain explains it")
    check_images(images, unwrapped.model)
    if isinstance(unwrapped.model, RegionClassifier):
        unwrapped.model.check(images)
    whole = nn.ModuleList((*unwrapped.front, unwrapped.model))
    with undisturbed(unwrapped.model, images.device), evaluating(whole):
        with torch.no_grad():
            given = unwrapped.prepare(images.detach().clone())  # what prepares them may work in place
        explained = unwrapped.model
        if given.ndim != 4:  # what stands in front is of the classifier itself
            explained, given = nn.Sequential(*unwrapped.front, explained), images.detach().clone()
        with fitting_channels(given), chosen.following():
            maps, logits = chosen.maps(Question(_plain(explained, given), given, targets, composite, layer))
    wanted, many = class_targets(targets, logits)
    if many:
        return Explanation(maps, wanted, logits, method)
    return Explanation(maps[:, 0], wanted[:, 0], logits, method)


def _plain(model: nn.Module, images: Tensor) -> nn.Module:
    """The model, or a private copy of one with forward hooks or tensors made in inference mode, which has neither.

    Hooks run once before they are taken off: those of torch.nn.utils (weight norm, spectral norm, pruning) put the
    layers' weights in place. InputError if one changes what passes through.
    """
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if not hooked and not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        return model
    copied = private_copy(model)
    if not hooked:
        return copied
    with torch.no_grad():
        copied(images.clone())
    for module in copied.modules():
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    return copied


def check_explanation(
    model: nn.Module, method: str = "lrp", *, rules: Rules | None = None, layer: str | None = None
) -> None:
    """Raise what `explain` would raise with these options, before there are images.

    Raises:
        InputError: see `explain`.
    """
    chosen, composite = _choose(method, rules, layer)
    with chosen.following():
        if chosen.takes_rules:
            unroll(model, rules=composite)
        if chosen.needs is not None:
            chosen.needs(trace(unwrap(model).model))
    ways = passes(unwrap(model).model)
    if layer is not None:
        ways.check_layer(layer)


def _choose(method: str, rules: Rules | None, layer: str | None) -> tuple[Method, Composite]:
    """The method and its composite; InputError for options that it does not have."""
    chosen = find_method(method)
    if rules is not None and not chosen.takes_rules:
        raise InputError(f"rules: method {method} has none; lrp has")
    if layer is not None and not chosen.takes_layer:
        raise InputError(f"layer {layer!r}: method {method} looks at none of its own; lrp, gradcam, layercam do")
    return chosen, find_composite(RULES if rules is None else rules)
