"""The commands ``cnnseg perturbation-test`` and ``cnnseg segmentation-test``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cnnseg.settings import EvaluationConfig
from wsss.console import Flat, together
from wsss.explanation_tests.options import Classes, Classifier, Images, MaskData, Masks, MaskSplit, Split, Weights
from wsss.options import Data, Device, ForegroundValue, Root, Runs, Shard
from wsss.processes import take_shard

if TYPE_CHECKING:
    from wsss.explanation_tests.commands import Order

Architecture = Annotated[
    str | None,
    Parameter(
        help="CNN of timm, or of torchvision (torchvision.NAME), with its ImageNet head, instead of --classifier; "
        "resnet50_v1 is a ResNet-50 version 1."
    ),
]
Name = Annotated[
    str | None,
    Parameter(
        help="Name of the run, for one method with one composite; ``MODEL.METHOD[.RULES][.LAYER]`` unless given."
    ),
]


@together
def perturbation_test(
    *,
    data: Data,
    split: Split,
    classifier: Classifier = None,
    architecture: Architecture = None,
    weights: Weights = "pretrained",
    name: Name = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[EvaluationConfig, Flat] = EvaluationConfig(),
) -> None:
    """Remove the most or the least relevant pixels and see how fast the CNN's accuracy falls.

    Both for maps of the predicted class and of the true class. Prints AUC and clean accuracy with 95 % intervals and
    each method's difference to the first one, image by image; results per image stay in
    RUNS/MODEL.METHOD/perturbation, where a test that was stopped goes on. Runs of vitseg compare with these: wsss
    compare.
    """
    from wsss.explanation_tests.commands import evaluate_by_perturbation

    take_shard(shard)
    evaluate_by_perturbation(_order(classifier, architecture, weights, name, runs, device, cfg), data, split, root)


@together
def segmentation_test(
    *,
    data: MaskData = None,
    split: MaskSplit = None,
    classes: Classes = None,
    images: Images = None,
    masks: Masks = None,
    foreground_value: ForegroundValue = None,
    classifier: Classifier = None,
    architecture: Architecture = None,
    weights: Weights = "pretrained",
    name: Name = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[EvaluationConfig, Flat] = EvaluationConfig(),
) -> None:
    """Cut maps of the class that the CNN predicts at their mean and compare them with the masks of the objects.

    On a data set with masks (--data, --split), of which the images that show exactly one class are taken, or on a
    folder of images and one of masks (--images, --masks). Prints pixel accuracy, mAP, mIoU and mF1 with 95 % intervals
    and each method's difference to the first one; results per image and a gallery stay in
    RUNS/MODEL.METHOD/segmentation, where a test that was stopped goes on. Runs of vitseg compare with these: wsss
    compare.
    """
    from wsss.explanation_tests.commands import MaskedData, evaluate_by_segmentation

    take_shard(shard)
    source = MaskedData(data, split, classes, root, images, masks, foreground_value)
    evaluate_by_segmentation(_order(classifier, architecture, weights, name, runs, device, cfg), source)


def _order(
    classifier: str | None,
    architecture: str | None,
    weights: str,
    name: str | None,
    runs: Path,
    device: str,
    cfg: EvaluationConfig,
) -> Order:
    from cnnseg.tested import find_explainers, find_model
    from wsss.explanation_tests.commands import Order

    def find():
        tested = find_model(classifier, architecture, weights, runs, cfg.size)
        return tested, find_explainers(tested, cfg)

    return Order("cnnseg", find, cfg, runs, name, device)
