"""What the commands that test explanations do, of whichever family, once they know their model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data import Dataset, Sample, check_foreground, foreground_set, load_dataset, paired_folders
from wsss.entries import TestEntry, save_tests
from wsss.errors import InputError
from wsss.explanation_tests.evaluations import Done, Evaluate, Evaluation, evenly, open_evaluations, run_evaluations
from wsss.explanation_tests.explainer import Explainer
from wsss.explanation_tests.figures import (
    Figures,
    perturbation_figures,
    read_results,
    region_figures,
    segmentation_figures,
)
from wsss.explanation_tests.perturbation import perturb
from wsss.explanation_tests.plots import draw_curves, draw_region_curves, write_gallery
from wsss.explanation_tests.protocols import PERTURBATION, REGION, SEGMENTATION
from wsss.explanation_tests.regions import evaluate_regions, find_pair
from wsss.explanation_tests.segmentation import load_pair, segment
from wsss.explanation_tests.settings import EvaluationConfig
from wsss.explanation_tests.tables import print_section
from wsss.explanation_tests.targets import target_outputs
from wsss.explanation_tests.tested import ModelUnderTest, classify, squeeze, stack
from wsss.extras import need
from wsss.progress import note
from wsss.provenance import command_line
from wsss.report.explanation import test_sections
from wsss.training import choose_device
from wsss.words import agreeing, counted


@dataclass(frozen=True)
class Order:
    """What is to be judged, as the command line of a family says it.

    ``program``: its name. ``find``: the model, and the explainers of it. ``name``: of the run, for one explainer.
    """

    program: str
    find: Callable[[], tuple[ModelUnderTest, Sequence[Explainer]]]
    config: EvaluationConfig
    runs: Path
    name: str | None = None
    device: str = "auto"


def evaluate_by_perturbation(order: Order, data: str, split: str, root: Path | None) -> None:
    """The command ``perturbation-test``: results, figures and curves of every explainer."""
    need("wsss")
    place = choose_device(order.device, order.config.precision)
    every = _single_class(load_dataset(data, split, root))
    dataset = evenly(every, order.config.limit)
    tested, explainers = order.find()
    targets = dict(zip((s.id for s in dataset), target_outputs(tested, dataset), strict=True))
    with ExitStack() as held:
        evaluations = open_evaluations(
            tested, dataset, "perturbation", explainers, order.config, order.runs, order.name, held=held
        )
        tested.to(place, order.config.precision)
        batch_size = order.config.batch_size

        def prepare(samples: Sequence[Sample]) -> Evaluate:
            pixels = stack([squeeze(dataset.load_image(sample), tested.size) for sample in samples])
            photographs = classify(tested, pixels, [sample.id for sample in samples], batch_size=batch_size)
            due = photographs.predicted.new_tensor([targets[sample.id] for sample in samples])
            return lambda evaluation: perturb(tested, photographs, due, evaluation.explainer, batch_size=batch_size)

        made = run_evaluations(evaluations, dataset, prepare, "perturbation test")
        if made is None:
            return
        figures = [perturbation_figures(read_results(evaluation.stage.folder)) for evaluation in evaluations]
        _finish(order, evaluations, made, figures, tested, dataset, f"{_counted(dataset, every)}; {PERTURBATION}")
        title = f"{tested.name}, {dataset.name} / {dataset.split}, {_counted(dataset, every)}"
        names = [evaluation.method for evaluation in evaluations]
        names = names if len(set(names)) == len(names) else [evaluation.explainer.label for evaluation in evaluations]
        for evaluation, name, found in zip(evaluations, names, figures, strict=True):
            draw_curves({name: found}, evaluation.stage.folder / "curves.png", title)
        picture = evaluations[0].stage.folder / "curves.png"
        if len(evaluations) > 1:
            picture = order.runs / f"{tested.name}.perturbation.{dataset.name}_{dataset.split}.png"
            draw_curves(dict(zip(names, figures, strict=True)), picture, title)
        note(f"curves: {picture}")


PAIRS = 8
"""Pairs in a file of results of the region test: each takes dozens of forward passes."""


@dataclass(frozen=True)
class RegionRule:
    """Which regions are tested, and what is explained of them; see `cnnseg.regions.settings.RegionEvaluationConfig`."""

    size: int
    least: float
    score: str


def evaluate_by_regions(order: Order, rule: RegionRule, data: str, split: str, root: Path | None) -> None:
    """The command ``region-test``: results, figures and curves of every explainer of a network that segments."""
    need("wsss")
    place = choose_device(order.device)
    every = load_dataset(data, split, root)
    images = evenly(every, order.config.limit)
    tested, explainers = order.find()
    pairs = pairs_of(images)
    targets = dict(zip((pair.id for pair in pairs), target_outputs(tested, pairs), strict=True))
    more = {"least": rule.least, "score": rule.score}
    with ExitStack() as held:
        evaluations = open_evaluations(
            tested, pairs, "region", explainers, order.config, order.runs, order.name, more=more, held=held
        )
        tested.to(place, order.config.precision)

        def prepare(samples: Sequence[Sample]) -> Evaluate:
            found = [find_pair(tested, pairs.load_image(s), rule.size, targets[s.id], s.id) for s in samples]
            how: dict[str, Any] = {"least": rule.least, "batch_size": order.config.batch_size}
            return lambda evaluation: evaluate_regions(tested, found, evaluation.explainer, **how)

        made = run_evaluations(evaluations, pairs, prepare, "region test", PAIRS)
        if made is None:
            return
        results = [read_results(evaluation.stage.folder, ["probability", "logit"]) for evaluation in evaluations]
        measured = int(np.isfinite(results[0]["probability"]).all(3).any((1, 2)).sum())
        have = agreeing(measured, "has", "have")
        note(f"{measured} of {counted(len(pairs), 'pair')} of image and class {have} a region")
        if not measured:
            raise InputError(
                f"data set {data}, split {split}: no region of {rule.least:.2%} of its image; give a smaller --least"
            )
        figures = [region_figures(arrays) for arrays in results]
        size = f"{rule.size} x {rule.size}" if rule.size else "their own"
        least = f"{100 * rule.least:g} %"
        text = f"{measured} of {counted(len(pairs), 'pair')}, {_counted(images, every)}; {REGION}"
        protocol = text.format(size=size, least=least, score=rule.score)
        _finish(order, evaluations, made, figures, tested, pairs, protocol)
        title = f"{tested.name}, {pairs.name} / {pairs.split}, {counted(measured, 'region')}"
        named = {evaluation.explainer.label: found for evaluation, found in zip(evaluations, figures, strict=True)}
        for evaluation, found in zip(evaluations, figures, strict=True):
            draw_region_curves({evaluation.explainer.label: found}, evaluation.stage.folder / "curves.png", title)
        picture = order.runs / f"{tested.name}.region.{pairs.name}_{pairs.split}.png"
        draw_region_curves(named, picture, title)
        note(f"curves: {picture}")


def pairs_of(dataset: Dataset) -> Dataset:
    """A sample for each class that an image shows, IMAGE.CLASS. InputError if there is none."""
    names = dataset.class_names
    pairs = [replace(s, id=f"{s.id}.{names[c - 1]}", classes=(c,)) for s in dataset for c in s.classes]
    if not pairs:
        raise InputError(f"data set {dataset.name}, split {dataset.split}: no image shows a class")
    return replace(dataset, samples=tuple(pairs))


@dataclass(frozen=True)
class MaskedData:
    """The options that say which images and masks: a data set, or two folders."""

    data: str | None = None
    split: str | None = None
    classes: Sequence[str] | None = None
    root: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    foreground_value: int | None = None

    def load(self) -> Dataset:
        """The images that show exactly one class, with masks. InputError naming an option that does not go along."""
        if (self.data is None) == (self.images is None):
            raise InputError("--data or --images: expected a data set with masks, or a folder of images with --masks")
        if self.images is not None:
            strays = {"--split": self.split, "--classes": self.classes, "--root": self.root}
            for option, value in strays.items():
                if value is not None:
                    raise InputError(f"{option}: goes with --data, not with --images")
            if self.masks is None:
                raise InputError(f"--images {self.images}: needs --masks, the folder of their masks")
            return paired_folders(self.images, self.masks, self.foreground_value)
        if self.masks is not None:
            raise InputError(f"--masks {self.masks}: goes with --images; a data set brings its own masks")
        if self.split is None:
            raise InputError(f"--data {self.data}: needs --split")
        if self.classes is not None and not self.classes:
            raise InputError("--classes: names none; leave the option out for all classes")
        dataset = load_dataset(self.data or "", self.split, self.root, foreground_value=self.foreground_value)
        return foreground_set(dataset, self.classes)


def evaluate_by_segmentation(order: Order, source: MaskedData) -> None:
    """The command ``segmentation-test``: results, figures and gallery of every explainer."""
    need("wsss")
    place = choose_device(order.device, order.config.precision)
    every = source.load()
    dataset = evenly(every, order.config.limit)
    check_foreground(dataset)
    tested, explainers = order.find()
    with ExitStack() as held:
        where = (order.config, order.runs, order.name)
        evaluations = open_evaluations(tested, dataset, "segmentation", explainers, *where, source.classes, held=held)
        tested.to(place, order.config.precision)
        batch_size = order.config.batch_size

        def prepare(samples: Sequence[Sample]) -> Evaluate:
            pairs = [load_pair(dataset, sample, tested.size) for sample in samples]
            pixels, truths = stack([image for image, _ in pairs]), np.stack([truth for _, truth in pairs])
            photographs = classify(tested, pixels, [sample.id for sample in samples], batch_size=batch_size)
            return lambda evaluation: segment(tested, photographs, truths, evaluation.explainer, batch_size=batch_size)

        made = run_evaluations(evaluations, dataset, prepare, "segmentation test")
        if made is None:
            return
        results = [read_results(evaluation.stage.folder, ["confusion", "ap", "f1"]) for evaluation in evaluations]
        figures = [segmentation_figures(arrays) for arrays in results]
        _finish(order, evaluations, made, figures, tested, dataset, f"{_counted(dataset, every)}; {SEGMENTATION}")
        of = f"{dataset.name} / {dataset.split}, {_counted(dataset, every)}"
        for evaluation, arrays in zip(evaluations, results, strict=True):
            title = f"{tested.name}, {evaluation.method} ({evaluation.settings}), {of}"
            note(f"gallery: {write_gallery(arrays, dataset, evaluation.stage.folder, tested.size, title)}")


def _single_class(dataset: Dataset) -> Dataset:
    """The images that show exactly one class: top-1 accuracy has no meaning for the others."""
    kept = tuple(sample for sample in dataset if len(sample.classes) == 1)
    if not kept:
        raise InputError(
            f"data set {dataset.name}, split {dataset.split}: no image shows exactly one class, as top-1 accuracy wants"
        )
    left = len(dataset) - len(kept)
    if left:
        do, are = agreeing(left, "does", "do"), agreeing(left, "is", "are")
        note(f"{left} of {len(dataset)} images {do} not show exactly one class and {are} left out")
    return replace(dataset, samples=kept)


def _counted(dataset: Dataset, every: Dataset) -> str:
    """How many images, and how they were chosen."""
    some = f" of {len(every)}, evenly spread" if len(dataset) < len(every) else ""
    return f"{counted(len(dataset), 'image')}{some}"


def _finish(
    order: Order,
    evaluations: Sequence[Evaluation],
    made: Mapping[str, Done],
    figures: Sequence[Figures],
    tested: ModelUnderTest,
    dataset: Dataset,
    protocol: str,
) -> None:
    """Print the figures, and write them into the manifest and metrics.json of each run."""
    height, width = tested.size
    text, command = protocol.format(size=f"{width} x {height}"), command_line(order.program)
    test = evaluations[0].stage.folder.parent.name
    for evaluation, found in zip(evaluations, figures, strict=True):
        done = made[evaluation.explainer.label]
        account = {"counts": {"images": done.images}, "seconds": done.seconds}
        evaluation.stage.done_if(done.images, command=command, split=dataset.split, **account)
        entry = TestEntry(
            test=test,
            data=dataset.name,
            split=dataset.split,
            images=len(dataset),
            model=tested.name,
            method=evaluation.method,
            figures=found.values,
            intervals=found.intervals,
            curves=found.curves,
            settings=evaluation.settings,
            folder=evaluation.stage.folder.relative_to(evaluation.run).as_posix(),
            command=command,
            protocol=text,
            source=evaluation.stage.fingerprint,
        )
        save_tests(evaluation.run, [entry])
    for section in test_sections(
        {evaluation.run.name: evaluation.run for evaluation in evaluations}, (dataset.name, dataset.split), test
    ):
        print_section(section)
    note(f"protocol: {text}")
    note(f"wrote {', '.join(str(evaluation.run / 'metrics.json') for evaluation in evaluations)}")
