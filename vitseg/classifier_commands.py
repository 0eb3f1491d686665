"""The commands ``vitseg train-classifier`` and ``vitseg evaluate-classifier``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vitseg.checkpoints import find_checkpoint
from vitseg.settings import CHECKPOINT, STATE, ClassifierConfig
from wsss.console import Flat, together
from wsss.extras import need
from wsss.naming import passing
from wsss.options import Data, Device, Readers, Restart, Root, Runs, suggest
from wsss.processes import from_first
from wsss.progress import note
from wsss.provenance import command_line
from wsss.words import counted

if TYPE_CHECKING:
    from wsss.classification import ClassificationScores
    from wsss.data import Dataset


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
    if val_split:
        need("wsss")
    with passing(split="train_split"):
        train_set = load_dataset(data, train_split, root)
    with passing(split="val_split"):
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
        beside=from_first(lambda: {} if val_set is None else {"val": inputs_of(val_set.samples)}),
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
                val_split=val_split,
            )

        trained = train(
            train_set, val_set, stage.folder, cfg, device=choose_device(device), workers=workers, report=report
        )
    note(f"wrote {trained.path}")
    suggest("vitseg", "seeds", "--classifier", name, data=data, split=train_split, root=root, runs=runs)


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
    from wsss.classification import classification_scores
    from wsss.data import load_dataset
    from wsss.training import choose_device

    need("wsss")
    dataset = load_dataset(data, split, root)
    model = load_classifier(find_checkpoint(classifier, runs))
    columns = list(outputs_for(model, dataset).values())
    probabilities = predict(model, dataset, size, device=choose_device(device))[:, columns]
    _report_scores(classification_scores(probabilities, dataset.labels()), dataset, None)


def _report_scores(scores: ClassificationScores, dataset: Dataset, path: Path | None) -> None:
    """Print a classifier's scores, and keep them in a file if `path` is given."""
    from wsss.store import write_json

    for class_name, f1, precision in zip(dataset.class_names, scores.f1, scores.average_precision, strict=True):
        note(f"{class_name:>16s}  F1 {100 * f1:5.1f}  AP {100 * precision:5.1f}")
    note(
        f"{'mean':>16s}  F1 {100 * scores.macro_f1:5.1f}  AP {100 * scores.mean_average_precision:5.1f}"
        f"  ({counted(len(dataset), 'image')} of {dataset.name}/{dataset.split}, threshold {scores.threshold})"
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
