"""What the region test is to know of a network that segments: the adapted network, and the explainers of it."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cnnseg
from cnnseg.methods import METHODS, find_method
from cnnseg.models import Network, find_network, load_network
from cnnseg.regions.explaining import RegionExplainer
from cnnseg.regions.layers import list_layers, usual_layer
from cnnseg.regions.settings import RegionEvaluationConfig
from cnnseg.segmentation.segmenting import stride_of
from cnnseg.settings import LAST, STAGE
from wsss.errors import InputError, did_you_mean
from wsss.explanation import Explanation
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.tested import ModelUnderTest
from wsss.extensions import source_file
from wsss.progress import warn
from wsss.store import file_hash

RANDOM = "random"
"""The control: another order of the pixels for each image and class, which nothing of the network is in."""

USUAL = ("gradcam", "layercam", "input_x_gradient", "integrated_gradients", "lrp", RANDOM)
"""What is tested unless methods are named."""


def find_model(name: str, runs: Path, config: RegionEvaluationConfig, which: str = LAST) -> ModelUnderTest:
    """The network of that name or file, adapted. InputError if there is none, or if it does not segment."""
    path = find_network(name, runs, which)
    network = load_network(path)
    explainer = RegionExplainer(network)
    side = config.size or stride_of(network)  # 0: each image at its own size
    return ModelUnderTest(
        explainer.adapted(config.score),
        network.class_names,
        network.mean,
        network.std,
        (side, side),
        _run_name(path.resolve(), network),
        file_hash(path),
        first_class=1,
        path=path,
    )


def _run_name(path: Path, network: Network) -> str:
    """What a network is called in the names of runs: the run that trained it, else its file."""
    return path.parents[1].name if path.parent.name == STAGE else path.stem


def find_explainers(tested: ModelUnderTest, config: RegionEvaluationConfig) -> list[Explainer]:
    """The explainers that are named, ``METHOD[:RULES][@LAYER]``, each once and tried on one image.

    Raises:
        InputError: an unknown method, composite or layer, or a method that does not explain this network; of the usual
            ones, none being named, it is left out with a warning.
    """
    names = USUAL if config.methods is None else tuple(dict.fromkeys(config.methods))
    if not names:
        raise InputError("`methods`: names none; leave the option out for the usual ones")
    found = []
    for name in names:
        try:
            explainer = explainer_named(name, tested.model, score=config.score)
            _try(explainer, tested)
        except InputError as error:
            if config.methods is not None:
                raise InputError(f"`methods` {name}: {error}") from None
            warn(f"{name} is left out: {error}")
        else:
            found.append(explainer)
    if len({explainer.label for explainer in found}) < len(found):
        raise InputError(f"`methods` {' '.join(names)}: two of them are one and the same")
    return found


def split_name(name: str) -> tuple[str, str | None, str | None]:
    """Method, rules and layer of ``METHOD[:RULES][@LAYER]``."""
    rest, _, layer = name.partition("@")
    method, _, rules = rest.partition(":")
    return method, rules or None, layer or None


def explainer_named(name: str, model: nn.Module, *, score: str = "logit") -> Explainer:
    """An explainer by its name: ``METHOD[:RULES][@LAYER]``, such as ``gradcam@decoder.blocks.3``, or random.

    Args:
        model: the adapted network, whose usual layer gradcam and layercam have unless one is named.
    """
    method, rules, layer = split_name(name)
    margin = {"score": score} if score != "logit" else {}
    if method == RANDOM:
        if rules or layer:
            raise InputError(f"{RANDOM} has neither rules nor layer")
        return Explainer(RANDOM, random_maps, class_specific=False, options=margin, variants=tuple(margin.values()))
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown: {did_you_mean(method, [*METHODS, RANDOM])}")
    takes = find_method(method)
    options: dict[str, Any] = {"rules": rules} if rules else {}
    if layer:
        options["layer"] = layer
    elif takes.takes_layer and not takes.takes_rules:
        options["layer"] = _usual_layer(model)
    said = options | margin
    explain = partial(_explained, method=method, **options)
    return Explainer(
        method,
        explain,
        options=said,
        variants=tuple(said.values()),
        remedy="try `precision` float64",
        many=True,
        code=source_file(takes.compute),
    )


def random_maps(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Uniform values (B, H, W), or (B, K, H, W), the same for the same image and class, whatever else is in the batch.

    ``model`` is not looked at.
    """
    rows = targets if targets.ndim == 2 else targets[:, None]
    pairs = zip(images, rows, strict=True)
    maps = torch.stack([torch.stack([_noise(image, int(target)) for target in row]) for image, row in pairs])
    return (maps if targets.ndim == 2 else maps[:, 0]).to(images.device)


def _noise(image: Tensor, target: int) -> Tensor:
    content = image.detach().float().cpu().contiguous().numpy().tobytes()
    digest = hashlib.sha256(content + target.to_bytes(4, "big", signed=True)).digest()
    return torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1))


def _explained(model: nn.Module, images: Tensor, targets: Tensor, *, method: str, **options: str) -> Explanation:
    return cnnseg.explain(model, images, targets, method, **options)


def _usual_layer(model: nn.Module) -> str:
    side = 4 * int(getattr(model.network, "multiple", 32))
    like = next(model.parameters())
    return usual_layer(list_layers(model, like.new_zeros(1, 3, side, side))).name


def _try(explainer: Explainer, tested: ModelUnderTest) -> None:
    side = 2 * int(getattr(tested.model.network, "multiple", 32))
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    tested.model.region = None
    explainer.maps(tested.model, tested.inputs(image), torch.tensor([[tested.first_class]]), ["a random image"])
