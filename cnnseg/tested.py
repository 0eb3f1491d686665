"""What the tests of explanations are to know of CNNs: the model, its methods, their rules and layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import cnnseg
from cnnseg.classifiers import input_size, load_imagenet_cnn
from cnnseg.models import PlainClassifier, find_network, load_network
from cnnseg.settings import BACKGROUND_CLASS, BEST, STAGE, EvaluationConfig
from cnnseg.unroll import UnrolledNetwork
from wsss.errors import InputError, check_one_of
from wsss.explanation import Explanation
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.settings import chosen_names
from wsss.explanation_tests.tested import ModelUnderTest
from wsss.extensions import source_file
from wsss.progress import warn
from wsss.store import file_hash

if TYPE_CHECKING:
    from cnnseg.methods import Method


def find_model(
    classifier: str | None, architecture: str | None, weights: str, runs: Path, size: int | None = None
) -> ModelUnderTest:
    """The model that the options of the command line mean.

    Args:
        classifier: file or run of `cnnseg train-classifier` (or of an unrolled network, whose classifier it is).
        architecture: else a CNN of timm or torchvision with its ImageNet head; `weights` "pretrained" or a file.
        size: side of the square that images are squeezed to; that of the model's own settings unless given.

    Raises:
        InputError: neither or both are given, or no such model.
    """
    check_one_of(classifier=classifier, architecture=architecture)
    square = (size, size) if size is not None else None
    if classifier is None:
        architecture = str(architecture)
        cnn = load_imagenet_cnn(architecture, weights)
        known = f"pretrained {architecture}" if weights == "pretrained" else file_hash(Path(weights))
        where = square or input_size(cnn.model)
        return ModelUnderTest(cnn.model, cnn.class_names, cnn.mean, cnn.std, where, architecture, known)
    path = find_network(classifier, runs, argument="classifier")
    network = load_network(path)
    if not isinstance(network.module, PlainClassifier | UnrolledNetwork):
        raise InputError(f"`classifier` {classifier}: expected one of `cnnseg train-classifier`, got a {network.kind}")
    model = network.module.model
    return ModelUnderTest(
        model,
        network.class_names,
        network.mean,
        network.std,
        square or input_size(model),
        _name(path.resolve()),
        file_hash(path),
        first_class=BACKGROUND_CLASS + 1,  # of which image-level labels teach nothing
        path=path,
    )


def _name(path: Path) -> str:
    """What a checkpoint is called in names of runs: the run that trained it (of best: NAME_best), else the file."""
    if path.parent.name != STAGE:
        return path.stem
    return path.parents[1].name + "_best" * (path.name == BEST)


def find_explainers(tested: ModelUnderTest, config: EvaluationConfig) -> list[Explainer]:
    """The methods asked for, those that take rules once for each composite. Each is tried on one image first.

    Of all methods (none was named) those that this model does not have are left out with a warning.

    Raises:
        InputError: an unknown method or composite, a layer that no method looks at, or a method that was named and that
            this model does not have.
    """
    from cnnseg.methods import METHODS
    from cnnseg.unroll.composites import COMPOSITES

    methods = [METHODS[name] for name in chosen_names(config.methods, METHODS, argument="methods", what="method")]
    composites = chosen_names(config.rules, COMPOSITES, argument="rules", what="composite")
    if config.layer is not None and not any(method.takes_layer for method in methods):
        raise InputError(f"`layer` {config.layer}: none of the methods looks at a layer")
    found = []
    for method in methods:
        layer = {"layer": config.layer} if method.takes_layer and config.layer is not None else {}
        for rules in [{"rules": name} for name in composites] if method.takes_rules else [{}]:
            found.append(explainer_of(method, **rules, **layer))
    return _tried(found, tested, every=config.methods is None)


def explainer_of(method: Method, **options: str) -> Explainer:
    """A method as it is judged; its runs are called METHOD.RULES.LAYER, as far as there are any."""
    return Explainer(
        method.name,
        partial(_explained, method=method.name, **options),
        class_specific=method.class_specific,
        many=True,
        options=options,
        variants=tuple(options.values()),
        remedy="try `precision` float64",
        code=source_file(method.compute),
    )


def _explained(model: nn.Module, images: Tensor, targets: Tensor, *, method: str, **options: str) -> Explanation:
    return cnnseg.explain(model, images, targets, method, **options)


def _tried(explainers: Sequence[Explainer], tested: ModelUnderTest, *, every: bool) -> list[Explainer]:
    """Those that explain this model, found out before a run is begun."""
    image = torch.rand(1, 3, *tested.size, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([tested.first_class])
    found = []
    for explainer in explainers:
        try:
            explainer.explain(tested.model, tested.inputs(image), target)
        except InputError as error:
            if not every or explainer.options.get("layer") is not None:
                raise
            warn(f"{explainer.label} is left out: {error}")
        else:
            found.append(explainer)
    if not found:
        raise InputError(f"model {tested.name}: none of the methods explains it")
    return found
