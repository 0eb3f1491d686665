"""The command ``vitseg``: a classifier of image-level labels, its explanations, and seeds made of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from vitseg.checkpoints import checkpoint_name, find_checkpoint
from vitseg.evaluation_commands import perturbation_test, segmentation_test
from vitseg.settings import CHECKPOINT, STATE, ClassifierConfig, ExplainConfig, SeedConfig
from wsss.console import Flat, note, run, together, versions
from wsss.errors import InputError
from wsss.explorer.options import Host, Port
from wsss.options import (
    Data,
    Device,
    FullSize,
    OutFolder,
    Readers,
    Restart,
    Root,
    Runs,
    Shard,
    check_positive,
    command_line,
)
from wsss.processes import from_first, take_shard

if TYPE_CHECKING:
    from wsss.data import Dataset, Sample
    from wsss.maps import SeedCounts
    from wsss.metrics import ClassificationScores

app = App(
    name="vitseg",
    version=versions,
    help="Relevance through vision transformers: explanations of images, and seeds for segmentation.",
    default_parameter=Parameter(negative_iterable=""),
)
app.command(perturbation_test)
app.command(segmentation_test)


@app.command
@together
def train_classifier(
    *,
    data: Data,
    train_split: str = "train",
    val_split: str | None = None,
    name: str = "classifier",
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    workers: Readers = 0,
    restart: Restart = False,
    cfg: Annotated[ClassifierConfig, Flat] = ClassifierConfig(),
) -> None:
    """Fine-tune a ViT to name the classes of an image, from image-level labels alone.

    Writes classifier/classifier.safetensors into the run. The state is kept after every epoch: a training that was
    killed goes on from there and, on a CPU, ends with the same classifier. Nothing is chosen on the validation split.

    Parameters
    ----------
    train_split
        Split to train on.
    val_split
        Split whose F1 and average precision are reported at the end.
    name
        Name of the run.
    """
    from vitseg.classifier import TrainedClassifier
    from vitseg.classifier import train_classifier as train
    from wsss.data import load_dataset
    from wsss.store import DATA, Training, inputs_of
    from wsss.training import choose_device

    begin = time.monotonic()
    train_set = load_dataset(data, train_split, root)
    val_set = load_dataset(data, val_split, root) if val_split else None
    training = Training(
        runs / name / "classifier",
        CHECKPOINT,
        STATE,
        identity={
            "kind": "classifier",
            "config": {**cfg.model_dump(mode="json"), "data": train_set.name, "split": train_split},
            "class_names": train_set.class_names,
            "sources": {DATA: train_set.root},
        },
        learnt=from_first(lambda: inputs_of(train_set.samples)),
    )
    if restart:
        training.restart()
    if training.finished():
        return
    with training.begin() as stage:

        def report(trained: TrainedClassifier) -> None:
            if trained.scores is not None and val_set is not None:
                _report_scores(trained.scores, val_set, stage.folder / "scores.json")
            stage.done(
                command=command_line("vitseg"),
                split=train_split,
                counts={"images": len(train_set)},
                seconds=time.monotonic() - begin,
                losses=list(trained.losses),
            )

        trained = train(
            train_set, val_set, stage.folder, cfg, device=choose_device(device), workers=workers, report=report
        )
    note(f"wrote {trained.path}")


@app.command
def evaluate_classifier(
    *,
    classifier: str,
    data: Data,
    split: str,
    size: int = 384,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Score a classifier on a split: F1 and average precision of each class, and their means.

    Parameters
    ----------
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    split
        Split to classify.
    size
        Side of the square that images are squeezed to.
    """
    from vitseg.classifier import predict
    from vitseg.models import load_classifier
    from vitseg.seeds import outputs_for
    from wsss.data import load_dataset
    from wsss.metrics import classification_scores
    from wsss.training import choose_device

    dataset = load_dataset(data, split, root)
    model = load_classifier(find_checkpoint(classifier, runs))
    columns = list(outputs_for(model, dataset).values())
    probabilities = predict(model, dataset, size, device=choose_device(device))[:, columns]
    _report_scores(classification_scores(probabilities, dataset.labels()), dataset, None)


@app.command
@together
def seeds(
    *,
    classifier: str,
    data: Data,
    split: str,
    name: str | None = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    batch_size: int = 8,
    shard: Shard = "1/1",
    cfg: Annotated[SeedConfig, Flat] = SeedConfig(),
) -> None:
    """Make seeds: soft maps of the classes each image is labelled with.

    Writes seeds/IMAGE.npz into the run, at the method's own grid. Goes on where it was stopped.

    Parameters
    ----------
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    split
        Split to explain.
    name
        Name of the run; unless given, lrp_vit for transformer attribution, rollout_vit for rollout, and so on, of a
        Hybrid-ViT lrp_hybrid, rollout_hybrid, ...
    batch_size
        Maps made at once.
    """
    from vitseg.methods import find_method
    from vitseg.models import load_classifier
    from vitseg.seeds import make_seeds, outputs_for, seed_name
    from wsss.data import load_dataset
    from wsss.maps import run_seeds
    from wsss.store import config_of, file_hash
    from wsss.training import choose_device

    find_method(cfg.method)
    take_shard(shard)
    check_positive("--batch-size", batch_size)
    dataset = load_dataset(data, split, root)
    path = find_checkpoint(classifier, runs)
    model = load_classifier(path)
    outputs = outputs_for(model, dataset)
    target = runs / (name or seed_name(cfg.method, model)) / "seeds"
    cfg = cfg.as_begun(config_of(target))
    where = choose_device(device, cfg.dtype)

    def make(samples: list[Sample], folder: Path) -> SeedCounts:
        return make_seeds(model, samples, outputs, folder, cfg, device=where, batch_size=batch_size)

    run_seeds(
        dataset,
        target,
        make,
        config=cfg.identity,
        inputs={"classifier": file_hash(path), "data": dataset.name},
        sources={"classifier": path},
        command=command_line("vitseg"),
    )


@app.command
@together
def explain(
    images: list[Path],
    /,
    *,
    classifier: str | None = None,
    architecture: str | None = None,
    weights: str = "pretrained",
    classes: list[str] | None = None,
    top: int = 1,
    out: OutFolder = Path("explanations"),
    full_size: FullSize = False,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    shard: Shard = "1/1",
    cfg: Annotated[ExplainConfig, Flat] = ExplainConfig(),
) -> None:
    """Explain photographs: an overlay for each of the top or the named classes, and a sheet with their scores.

    Either with a classifier of train-classifier (--classifier), or with any ImageNet ViT of timm (--architecture,
    --weights).

    Parameters
    ----------
    images
        Photographs.
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    architecture
        timm's name of a ViT with its ImageNet head, instead of --classifier.
    weights
        Weights of --architecture: 'pretrained' (fetched by timm) or a file.
    classes
        Classes to explain, by name (by index, of an ImageNet model); may be given several times.
    top
        Number of most probable classes to explain where none is named.
    out
        Folder of overlays, IMAGE_CLASS.png, and sheets that have them all beside the photograph, IMAGE.sheet.png.
    """
    from vitseg.models import load_classifier, load_imagenet_vit
    from vitseg.pictures import explain_photographs
    from wsss.training import choose_device

    take_shard(shard)
    if (classifier is None) == (architecture is None):
        raise InputError("--classifier or --architecture: give one of the two")
    if classifier is not None:
        model = load_classifier(find_checkpoint(classifier, runs))
    else:
        model = load_imagenet_vit(architecture, weights)
    where = choose_device(device, cfg.dtype)
    explain_photographs(model, images, out, cfg, classes=classes, top=top, full_size=full_size, device=where)


@app.command
def explore(
    *,
    classifier: str | None = None,
    architecture: str | None = None,
    weights: str = "pretrained",
    port: Port = 7860,
    host: Host = "127.0.0.1",
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Ask a ViT with the mouse why it says what it says: a page in the browser.

    Either a classifier of train-classifier (--classifier), or any ImageNet ViT of timm (--architecture, --weights).
    Needs the extra: pip install 'relseg[explorer]'.

    Parameters
    ----------
    classifier
        Checkpoint (.safetensors), or the name of a run that holds one.
    architecture
        timm's name of a ViT with its ImageNet head, instead of --classifier.
    weights
        Weights of --architecture: 'pretrained' (fetched by timm) or a file.
    """
    from vitseg.explorer import ClassifyingSubject
    from vitseg.models import load_classifier, load_imagenet_vit
    from wsss.explorer.serving import serve
    from wsss.training import choose_device

    if (classifier is None) == (architecture is None):
        raise InputError("--classifier or --architecture: give one of the two")
    if classifier is not None:
        path = find_checkpoint(classifier, runs)
        model, title = load_classifier(path), f"{checkpoint_name(path)}: ViT classifier"
        named = {"classifier": classifier}
    else:
        model, title = load_imagenet_vit(architecture, weights), f"{architecture}, ImageNet"
        named = {"architecture": architecture, "weights": weights}
    serve(ClassifyingSubject(model, title, named, device=choose_device(device)), host=host, port=port)


def _report_scores(scores: ClassificationScores, dataset: Dataset, path: Path | None) -> None:
    """Print a classifier's scores, and keep them in a file if `path` is given."""
    from wsss.store import write_json

    for class_name, f1, precision in zip(dataset.class_names, scores.f1, scores.average_precision, strict=True):
        note(f"{class_name:>16s}  F1 {100 * f1:5.1f}  AP {100 * precision:5.1f}")
    note(
        f"{'mean':>16s}  F1 {100 * scores.macro_f1:5.1f}  AP {100 * scores.mean_average_precision:5.1f}"
        f"  ({len(dataset)} images of {dataset.name}/{dataset.split}, threshold {scores.threshold})"
    )
    if path is not None:
        content = {
            "data": dataset.name,
            "split": dataset.split,
            "images": len(dataset),
            "macro_f1": 100 * scores.macro_f1,
            "map": 100 * scores.mean_average_precision,
            "f1": dict(zip(dataset.class_names, (100 * scores.f1).tolist(), strict=True)),
            "ap": dict(zip(dataset.class_names, (100 * scores.average_precision).tolist(), strict=True)),
            "command": command_line("vitseg"),
        }
        write_json(path, content)


@app.command
def list_methods() -> None:
    """List the explanation methods, and where each comes from."""
    # not called "methods": a configuration's key of that name would be taken for the command
    from vitseg.methods import METHODS

    for name, method in METHODS.items():
        kind = "one map for each class" if method.class_specific else "one map for all classes"
        note(f"{name:24s} {kind}; {method.source}")


def main() -> None:
    """Entry point of ``vitseg``."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
