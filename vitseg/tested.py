"""What the tests of explanations are to know of vision transformers: the model, its methods, their options."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from vitseg.checkpoints import checkpoint_name, find_checkpoint
from vitseg.explanation import explain
from vitseg.methods import METHODS, find_method
from vitseg.models import Classifier, load_classifier, load_imagenet_vit
from vitseg.relevance.parts import check_supported
from vitseg.settings import EvaluationConfig
from wsss.errors import InputError, check_one_of
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.settings import chosen_names
from wsss.explanation_tests.tested import ModelUnderTest
from wsss.extensions import source_file
from wsss.store import file_hash


def find_model(classifier: str | None, architecture: str | None, weights: str, runs: Path) -> ModelUnderTest:
    """The model that the options of the command line mean.

    Args:
        classifier: file or run of `vitseg train-classifier`.
        architecture: else timm's name of a ViT with its ImageNet head; `weights` "pretrained" or a file.

    Raises:
        InputError: neither or both are given, no such model, or a model that cannot be explained.
    """
    check_one_of(classifier=classifier, architecture=architecture)
    if classifier is not None:
        path = find_checkpoint(classifier, runs)
        tested = model_under_test(load_classifier(path), checkpoint_name(path), file_hash(path), path)
    else:
        architecture = str(architecture)
        model = load_imagenet_vit(architecture, weights)
        known = f"pretrained {architecture}" if weights == "pretrained" else file_hash(Path(weights))
        tested = model_under_test(model, architecture, known)
    check_supported(tested.model)
    return tested


def model_under_test(classifier: Classifier, name: str, fingerprint: str, path: Path | None = None) -> ModelUnderTest:
    """A classifier under test, at the size it was made for."""
    height, width = classifier.model.patch_embed.img_size
    size = (int(height), int(width))
    known = (classifier.model, classifier.class_names, classifier.mean, classifier.std)
    return ModelUnderTest(*known, size, name, fingerprint, path=path)


def find_explainers(model: nn.Module, config: EvaluationConfig) -> list[Explainer]:
    """The methods asked for, each with the options that make a difference to it.

    Raises:
        InputError: no or an unknown method, or a first block that the model does not have.
    """
    depth = len(model.blocks)
    methods = chosen_names(config.methods, METHODS, argument="methods", what="method")
    if config.first_block is not None and config.first_block >= depth:
        raise InputError(f"`first_block` {config.first_block}: expected a block of the model, 0 to {depth - 1}")
    return [explainer_of(name, depth, rules=config.rules, first_block=config.first_block) for name in methods]


def explainer_of(name: str, depth: int, *, rules: str = "robust", first_block: int | None = None) -> Explainer:
    """A method as it is judged, of a model of `depth` blocks; the run of the exact rules is called so."""
    method = find_method(name)
    options: dict[str, object] = {"rules": rules} if method.relevance else {}
    options |= {"first_block": method.first_block(depth, first_block)} if method.rolls_out else {}
    return Explainer(
        name,
        partial(_maps, method=name, **options),
        class_specific=method.class_specific,
        many=True,
        options=options,
        variants=("exact",) * (options.get("rules") == "exact"),
        remedy="try `precision` float64",
        code=source_file(method.compute),
    )


def _maps(model: nn.Module, images: Tensor, targets: Tensor, *, method: str, **options: object) -> Tensor:
    return explain(model, images, targets, method, **options).maps
