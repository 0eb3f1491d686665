"""The commands ``vitseg perturbation-test`` and ``vitseg segmentation-test``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vitseg.settings import TrialConfig
from wsss.console import Flat, Several, note
from wsss.errors import InputError
from wsss.options import Data, Device, Root, Runs, command_line

if TYPE_CHECKING:
    from vitseg.trial import Done, Judge, Subject, Trial
    from wsss.data import Dataset, Sample
    from wsss.explanation_tests import Figures

BOOTSTRAP = "95 % bootstrap intervals over images"
PERTURBATION = (
    "images squeezed to {size} (bilinear); the least (negative) or most (positive) relevant 0, 10, ... 90 % of the "
    "pixels set to 0 before normalisation; top-1 against the true label; AUC over [0, 0.9], times 100; map of the "
    f"predicted class of the clean image, and of the target (true) class; {BOOTSTRAP}"
)
SEGMENTATION = (
    "images and masks squeezed to {size} (bilinear, nearest); map of the predicted class, enlarged bilinearly, min-max "
    "scaled for each image; foreground = map > its mean; pixel accuracy and IoU of background and foreground from sums "
    "over the whole set, mAP over [1 - map, map] and F1 of the foreground as means over images; 255 ignored; "
    f"no labels given; {BOOTSTRAP}"
)
Classifier = Annotated[str | None, Parameter(help="Checkpoint (.safetensors), or the name of a run that holds one.")]
Architecture = Annotated[
    str | None, Parameter(help="timm's name of a ViT with its ImageNet head, instead of --classifier.")
]
Weights = Annotated[str, Parameter(help="Weights of --architecture: 'pretrained' (fetched by timm) or a file.")]
Name = Annotated[str | None, Parameter(help="Name of the run, for one method; MODEL.METHOD unless given.")]


def perturbation_test(
    *,
    data: Data,
    split: str,
    classifier: Classifier = None,
    architecture: Architecture = None,
    weights: Weights = "pretrained",
    name: Name = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    cfg: Annotated[TrialConfig, Flat] = TrialConfig(),
) -> None:
    """Remove the most or the least relevant pixels and see how fast the model's accuracy falls.

    Both for maps of the predicted class and of the true class. Prints AUC and clean accuracy with 95 % intervals and
    each method's difference to the first one, image by image; results per image stay in
    RUNS/MODEL.METHOD/perturbation, where a test that was stopped goes on.

    Parameters
    ----------
    split
        Split to test on.
    """
    from vitseg.perturbation_test import classify, perturb, target_outputs
    from vitseg.plots import draw_curves
    from vitseg.trial import evenly, find_subject, open_trials, run_trials, squeeze, stack
    from wsss.data import load_dataset
    from wsss.explanation_tests import perturbation_figures, read_results
    from wsss.training import choose_device

    place = choose_device(device)
    every = _single_class(load_dataset(data, split, root))
    dataset = evenly(every, cfg.limit)
    subject = find_subject(classifier, architecture, weights, runs)
    targets = dict(zip((s.id for s in dataset), target_outputs(subject.classifier, dataset), strict=True))
    trials = open_trials(subject, dataset, "perturbation", cfg, runs, name)
    subject.to(place, cfg.precision)

    def prepare(samples: Sequence[Sample]) -> Judge:
        pixels = stack([squeeze(dataset.load_image(sample), subject.size) for sample in samples])
        ids = [sample.id for sample in samples]
        how = {"device": place, "batch_size": cfg.batch_size}
        photographs = classify(subject.classifier, pixels, ids, [targets[i] for i in ids], **how)
        return lambda trial: perturb(subject.classifier, photographs, trial.method, **how, **trial.options)

    made = run_trials(trials, dataset, prepare, "perturbation test")
    figures = {trial.method: perturbation_figures(read_results(trial.stage.folder)) for trial in trials}
    _finish(trials, made, subject, dataset, "perturbation", f"{_counted(dataset, every)}; {PERTURBATION}", figures)
    title = f"{subject.name}, {dataset.name} / {dataset.split}, {_counted(dataset, every)}"
    for trial in trials:
        draw_curves({trial.method: figures[trial.method]}, trial.stage.folder / "curves.png", title)
    picture = trials[0].stage.folder / "curves.png"
    if len(trials) > 1:
        picture = runs / f"{subject.name}.perturbation.{dataset.name}_{dataset.split}.png"
        draw_curves(figures, picture, title)
    note(f"curves: {picture}")


def segmentation_test(
    *,
    data: Annotated[str | None, Parameter(help="Data set: a YAML file, or a name below configs/data.")] = None,
    split: str | None = None,
    classes: Annotated[list[str] | None, Several] = None,
    images: Path | None = None,
    masks: Path | None = None,
    classifier: Classifier = None,
    architecture: Architecture = None,
    weights: Weights = "pretrained",
    name: Name = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    cfg: Annotated[TrialConfig, Flat] = TrialConfig(),
) -> None:
    """Cut maps of the predicted class at their mean and compare them with the masks of the objects.

    On a data set with masks (--data, --split), of which the images that show exactly one class are taken, or on a
    folder of images and one of masks (--images, --masks). Prints pixel accuracy, mAP, mIoU and mF1 with 95 % intervals
    and each method's difference to the first one; results per image and a gallery stay in
    RUNS/MODEL.METHOD/segmentation, where a test that was stopped goes on.

    Parameters
    ----------
    split
        Split of --data to test on.
    classes
        Take only images of these classes of --data.
    images
        Folder of photographs, instead of --data.
    masks
        Folder of PNG masks with the names of the photographs; any value but 0 and 255 (ignored) is foreground.
    """
    import numpy as np

    from vitseg.plots import write_gallery
    from vitseg.segmentation_test import load_pair, segment
    from vitseg.trial import evenly, find_subject, open_trials, run_trials, stack
    from wsss.explanation_tests import read_results, segmentation_figures
    from wsss.training import choose_device

    place = choose_device(device)
    every = _with_masks(data, split, classes, root, images, masks)
    dataset = evenly(every, cfg.limit)
    subject = find_subject(classifier, architecture, weights, runs)
    trials = open_trials(subject, dataset, "segmentation", cfg, runs, name, classes)
    subject.to(place, cfg.precision)

    def prepare(samples: Sequence[Sample]) -> Judge:
        pairs = [load_pair(dataset, sample, subject.size) for sample in samples]
        pixels, truths = stack([image for image, _ in pairs]), np.stack([truth for _, truth in pairs])
        ids = [sample.id for sample in samples]
        how = {"device": place, "batch_size": cfg.batch_size}
        return lambda trial: segment(subject.classifier, pixels, truths, ids, trial.method, **how, **trial.options)

    made = run_trials(trials, dataset, prepare, "segmentation test")
    results = {trial.method: read_results(trial.stage.folder, ["confusion", "ap", "f1"]) for trial in trials}
    figures = {method: segmentation_figures(arrays) for method, arrays in results.items()}
    _finish(trials, made, subject, dataset, "segmentation", f"{_counted(dataset, every)}; {SEGMENTATION}", figures)
    of = f"{dataset.name} / {dataset.split}, {_counted(dataset, every)}"
    for trial in trials:
        title = f"{subject.name}, {trial.method} ({trial.settings}), {of}"
        note(f"gallery: {write_gallery(results[trial.method], dataset, trial.stage.folder, subject.size, title)}")


def _single_class(dataset: Dataset) -> Dataset:
    """The images that show exactly one class: top-1 accuracy has no meaning for the others."""
    from dataclasses import replace

    kept = tuple(sample for sample in dataset if len(sample.classes) == 1)
    if not kept:
        raise InputError(
            f"data set {dataset.name}, split {dataset.split}: no image shows exactly one class, as top-1 accuracy wants"
        )
    if len(kept) < len(dataset):
        note(f"{len(dataset) - len(kept)} of {len(dataset)} images do not show exactly one class and are left out")
    return replace(dataset, samples=kept)


def _with_masks(
    data: str | None,
    split: str | None,
    classes: Sequence[str] | None,
    root: Path | None,
    images: Path | None,
    masks: Path | None,
) -> Dataset:
    from wsss.data import foreground_set, load_dataset, paired_folders

    if (data is None) == (images is None):
        raise InputError("--data or --images: give a data set with masks, or a folder of images with --masks")
    if data is None:
        strays = {"--split": split, "--classes": classes, "--root": root}
        for option, value in strays.items():
            if value is not None:
                raise InputError(f"{option}: goes with --data, not with --images")
        if masks is None:
            raise InputError(f"--images {images}: needs --masks, the folder of their masks")
        return paired_folders(images, masks)
    if masks is not None:
        raise InputError(f"--masks {masks}: goes with --images; a data set brings its own masks")
    if split is None:
        raise InputError(f"--data {data}: needs --split")
    if classes is not None and not classes:
        raise InputError("--classes: names none; leave the option out for all classes")
    return foreground_set(load_dataset(data, split, root), classes)


def _counted(dataset: Dataset, every: Dataset) -> str:
    """How many images, and how they were chosen."""
    some = f" of {len(every)}, evenly spread" if len(dataset) < len(every) else ""
    return f"{len(dataset)} images{some}"


def _finish(
    trials: Sequence[Trial],
    made: Mapping[str, Done],
    subject: Subject,
    dataset: Dataset,
    test: str,
    protocol: str,
    figures: Mapping[str, Figures],
) -> None:
    """Print the figures, and write them into the manifest and metrics.json of each run."""
    from vitseg.tables import print_section
    from wsss.entries import TestEntry, save_tests
    from wsss.report.explanation import test_sections

    height, width = subject.size
    text = protocol.format(size=f"{width} x {height}")
    for trial in trials:
        done = made[trial.method]
        listed = {past["split"] for past in trial.stage.manifest["history"]}
        if done.images or dataset.split not in listed:  # not listed: killed between the last part and this line
            counts = {"images": done.images}
            trial.stage.done(command=command_line("vitseg"), split=dataset.split, counts=counts, seconds=done.seconds)
        found = figures[trial.method]
        entry = TestEntry(
            test=test,
            data=dataset.name,
            split=dataset.split,
            images=len(dataset),
            model=subject.name,
            method=trial.method,
            figures=found.values,
            intervals=found.intervals,
            curves=found.curves,
            settings=trial.settings,
            folder=trial.stage.folder.relative_to(trial.run).as_posix(),
            command=command_line("vitseg"),
            protocol=text,
            source=trial.stage.fingerprint,
        )
        save_tests(trial.run, [entry])
    for section in test_sections({trial.run.name: trial.run for trial in trials}, (dataset.name, dataset.split), test):
        print_section(section)
    note(f"protocol: {text}")
    note(f"wrote {', '.join(str(trial.run / 'metrics.json') for trial in trials)}")
