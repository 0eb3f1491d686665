"""The two tests from Python: any model, any callable that explains it, images in memory or in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.data import IGNORE
from wsss.errors import InputError
from wsss.explanation import NEGATIVE, evaluating
from wsss.explanation_tests.batches import Batches, checked_batches, read_masks, read_targets
from wsss.explanation_tests.explainer import Explain, Explainer
from wsss.explanation_tests.perturbation import perturb
from wsss.explanation_tests.protocols import CUT, REMOVAL
from wsss.explanation_tests.results import TestResult, compare_tests, result_of
from wsss.explanation_tests.segmentation import segment
from wsss.explanation_tests.tested import ModelUnderTest, Photographs, classify
from wsss.progress import track
from wsss.words import counted

__all__ = ["TestResult", "compare_tests", "perturbation_test", "segmentation_test"]

CHUNK = 64
"""Images of one tensor that are looked at together, at least: the same as the parts of the command line."""

Evaluate = Callable[[ModelUnderTest, Photographs, np.ndarray], Generator[None, None, dict[str, np.ndarray]]]


def perturbation_test(
    model: nn.Module,
    explainer: Explain | Explainer,
    images: Batches,
    targets: Tensor | Sequence[int] | None = None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 16,
    class_specific: bool = True,
    many: bool = False,
    name: str | None = None,
    ids: Sequence[str] | None = None,
    progress: bool = False,
) -> TestResult:
    """How fast a model's accuracy falls when the pixels that a map calls (un)important are removed.

    Samek et al., IEEE TNNLS 2017, in the form of Chefer, Gur and Wolf, CVPR 2021, section 4: the least (negative test)
    or most (positive test) relevant 0, 10, ... 90 % of the pixels become 0 before normalisation; the figure is the area
    under the top-1 accuracy. The map is that of the predicted class, and that of the target.

    Args:
        model: any module from normalised images to logits (B, C), on any device; put into evaluation mode for the test
            and left as found. A model with ONE output is taken for a binary classifier: its classes are 0 (the output,
            predicted where it is positive) and -1 (the other one). One output that is a quantity (regression) has no
            accuracy that could fall: make it a question with two answers, a module that gives ``output - threshold``.
        explainer: ``explainer(model, images, targets)`` of normalised images (B, 3, H, W) and int64 targets (B,) gives
            maps (B, h, w), on any grid, of any scale, signed or not, the larger the more relevant; or an `Explanation`,
            such as ``lambda model, images, targets: vitseg.explain(model, images, targets, "rollout")``.
        images: normalised, (N, 3, H, W); or an iterable of such batches; or, without `targets`, of pairs (images,
            targets), such as a data loader. They are brought to the model's device and precision.
        targets: true classes, (N,) integers; of a model with one output 0 or -1.
        mean: what the images were normalised with, ``(x - mean) / std`` of RGB in [0, 1], which makes black
            ``-mean / std``; 0 and 1 for images in [0, 1], as a model takes them that normalises by itself.
        std: see `mean`.
        batch_size: images that go through the model at once; bounds the memory.
        class_specific: False if the explainer gives one map whatever the target: half the work.
        many: the explainer takes targets (B, K) too, and gives (B, K, h, w): classes of one image cost it less
            together. Without it no call has more than one target an image.
        name: of the explainer, in messages and results; the callable's own unless given.
        ids: N names of the images, for messages and comparisons; their numbers from 0 unless given.
        progress: print it.

    Raises:
        InputError: images, targets or maps of another shape or type than said here, or a map that is not finite.

    Example:
        >>> import torch
        >>> from wsss import compare_tests, perturbation_test
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
        >>> images, targets = torch.randn(20, 3, 8, 8), torch.arange(20) % 4
        >>> def input_times_gradient(model, images, targets):
        ...     images = images.clone().requires_grad_()
        ...     scores = model(images).gather(1, targets[:, None]).sum()
        ...     return (images * torch.autograd.grad(scores, images)[0]).sum(1)
        >>> normal = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> result = perturbation_test(model, input_times_gradient, images, targets, **normal)
        >>> sorted(result.figures)
        ['clean_accuracy', 'negative_predicted', 'negative_target', 'positive_predicted', 'positive_target']
        >>> result.results["correct"].shape
        (20, 2, 2, 10)
        >>> noise = perturbation_test(model, lambda m, x, t: torch.rand(len(x), 8, 8), images, targets, **normal)
        >>> difference, low, high = compare_tests(noise, result)["negative_target"]
        >>> low <= difference <= high
        True
    """
    if not (_numbers(mean) and _numbers(std) and len(mean) == len(std) and all(value > 0 for value in std)):
        raise InputError(f"mean {mean}, std {std}: expected a number for each channel, std above 0")
    judged = _explainer(explainer, name, class_specific, many)
    tested = _tested(model, mean, std)

    def evaluate(
        tested: ModelUnderTest, photographs: Photographs, due: np.ndarray
    ) -> Generator[None, None, dict[str, np.ndarray]]:
        if photographs.pixels.shape[1] != len(mean):
            raise InputError(
                f"images: expected {counted(len(mean), 'channel')}, as mean has, got {photographs.pixels.shape[1]}"
            )
        lowest, highest = (NEGATIVE, 0) if photographs.outputs == 1 else (0, photographs.outputs - 1)
        if due.min() < lowest or due.max() > highest:
            hint = f"; of one output 0 is that output, {NEGATIVE} the other class" if lowest else ""
            raise InputError(f"targets: expected classes {lowest} to {highest}, got {due.min()} to {due.max()}{hint}")
        return perturb(tested, photographs, torch.from_numpy(due), judged, batch_size=batch_size)

    results = _run_test("perturbation", tested, evaluate, images, targets, batch_size, ids, progress)
    return result_of(
        "perturbation", judged.name, tested.name, results, f"{counted(len(results['ids']), 'image')}; {REMOVAL}"
    )


def segmentation_test(
    model: nn.Module,
    explainer: Explain | Explainer,
    images: Batches,
    masks: Tensor | np.ndarray | None = None,
    *,
    batch_size: int = 16,
    name: str | None = None,
    ids: Sequence[str] | None = None,
    progress: bool = False,
) -> TestResult:
    """Maps of the predicted class, cut at their mean, against masks of the objects.

    Chefer, Gur and Wolf, CVPR 2021, section 4. Signed maps are scaled from their least to their largest value, too. The
    class explained is the predicted one: of a model with one output 0 where it is positive, else -1. What is not said
    here is as in `perturbation_test`.

    Args:
        images: normalised, (N, 3, H, W); or an iterable of such batches; or, without `masks`, of pairs (images, masks).
        masks: (N, H, W), 0 background, 1 foreground (bool, too), 255 ignored; as large as the images.

    Raises:
        InputError: images, masks or maps of another shape or type than said here, or a map that is not finite.

    Example:
        >>> import torch
        >>> from wsss import segmentation_test
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
        >>> images, masks = torch.randn(20, 3, 8, 8), torch.rand(20, 8, 8) > 0.5
        >>> result = segmentation_test(model, lambda model, images, targets: images.abs().sum(1), images, masks)
        >>> print(result)  # doctest: +ELLIPSIS
        segmentation test of explainer on Sequential, 20 images
          pixel_accuracy       ...
          map                  ...
          miou                 ...
          mf1                  ...
    """
    judged = _explainer(explainer, name)
    held: set[int] = set()

    def evaluate(
        tested: ModelUnderTest, photographs: Photographs, truths: np.ndarray
    ) -> Generator[None, None, dict[str, np.ndarray]]:
        if truths.shape[1:] != tuple(photographs.pixels.shape[2:]):
            raise InputError(
                f"masks: expected {tuple(photographs.pixels.shape[2:])}, as the images, got {truths.shape[1:]} "
                "(resize masks to the nearest pixel)"
            )
        held.update(np.unique(truths).tolist())
        results = yield from segment(tested, photographs, truths, judged, batch_size=batch_size)
        del results["maps"]  # a pixel of the map for each of the image would fill the memory
        return results

    tested = _tested(model, (0.0,) * 3, (1.0,) * 3)
    results = _run_test("segmentation", tested, evaluate, images, masks, batch_size, ids, progress)
    if 1 not in held:
        hint = "; the object is 1, 255 is ignored: give masks > 0" if IGNORE in held else ": there is no object in them"
        raise InputError(f"masks: hold {' and '.join(map(str, sorted(held)))} alone{hint}")
    return result_of(
        "segmentation", judged.name, tested.name, results, f"{counted(len(results['ids']), 'image')}; {CUT}"
    )


def _numbers(values: Any) -> bool:
    """Whether `values` are several finite numbers."""
    try:
        return len(values) > 0 and all(math.isfinite(value) for value in values)
    except TypeError:
        return False


def _explainer(
    explainer: Explain | Explainer, name: str | None, class_specific: bool = True, many: bool = False
) -> Explainer:
    if isinstance(explainer, Explainer):
        return explainer
    if not callable(explainer):
        raise InputError(
            f"explainer: expected a callable (model, images, targets) -> maps, got a {type(explainer).__name__}"
        )
    own = getattr(explainer, "__name__", type(explainer).__name__)
    return Explainer(name or ("explainer" if own == "<lambda>" else own), explainer, class_specific, many)


def _tested(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> ModelUnderTest:
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got a {type(model).__name__}")
    return ModelUnderTest(model, (), tuple(mean), tuple(std), (0, 0), type(model).__name__)


def _run_test(
    test: str,
    tested: ModelUnderTest,
    evaluate: Evaluate,
    images: Batches,
    truths: Any,
    batch_size: int,
    ids: Sequence[str] | None,
    progress: bool,
) -> dict[str, np.ndarray]:
    """Run a test over all batches; results per image of all of them."""
    what, read = {"perturbation": ("targets", read_targets), "segmentation": ("masks", read_masks)}[test]
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: expected at least 1")
    due = None if truths is None else read(truths)
    names = None if ids is None else [str(name) for name in ids]
    if names is not None and len(set(names)) < len(names):
        raise InputError(f"ids: expected each once, got one twice among {len(names)}")
    parts: list[dict[str, np.ndarray]] = []

    def steps() -> Iterator[None]:
        start = 0
        for batch, own in checked_batches(images, due is None, what, max(CHUNK, batch_size)):
            end = start + len(batch)
            mine = read(own) if due is None else due[start:end]
            if len(mine) != len(batch):
                more = f"{len(mine)} for a batch of {len(batch)}" if due is None else f"{len(due)}, but there are more"
                raise InputError(f"{what}: {more} images")
            called = [str(place) for place in range(start, end)] if names is None else names[start:end]
            if len(called) != len(batch):
                raise InputError(f"ids: {len(names or ())}, but there are more images")
            photographs = classify(tested, batch, called, batch_size=batch_size)
            results = yield from evaluate(tested, photographs, mine)
            parts.append({"ids": np.array(called), **results})
            start = end
        if not parts:
            raise InputError("images: none")
        for name, given in ((what, due), ("ids", names)):
            if given is not None and len(given) != start:
                raise InputError(f"{name}: expected one for each of {counted(start, 'image')}, got {len(given)}")

    with evaluating(tested.model):
        total = len(images) if isinstance(images, Tensor) else None if due is None else len(due)
        for _ in track(steps(), f"{test} test", total) if progress else steps():
            pass
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
