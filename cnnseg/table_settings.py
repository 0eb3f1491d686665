"""A table of trainings as its YAML describes it: networks x budgets of masks x seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from cnnseg.reading import find_reading
from cnnseg.settings import Kind, NetworkConfig, TrainConfig
from wsss.configs import find_config, read_yaml
from wsss.errors import InputError
from wsss.settings import Config, MixedPrecision, validation_line

VOC = "voc12"
"""The data set of the published figures; beside figures of another they would be no comparison."""


class RowConfig(Config):
    """A row of the table: a network, and what Yu et al. (2024) publish of it."""

    label: str
    kind: Kind
    architecture: str = "resnet50"
    name: str | None = None
    """what the names of its runs begin with; the kind of network unless given"""
    classes_at_once: int | None = Field(None, ge=1)
    net: dict[str, Any] = Field(default_factory=dict)
    """other settings of its network, such as its strides"""
    train: dict[str, Any] = Field(default_factory=dict)
    """what this row's training has otherwise than the others"""
    published: dict[int, float] = Field(default_factory=dict)
    """budget -> mIoU"""
    published_f1: dict[int, float] = Field(default_factory=dict)
    """budget -> F1; 0: after the classifier's training"""

    @model_validator(mode="before")
    @classmethod
    def _former(cls, row: Any) -> Any:
        if isinstance(row, dict) and "network" in row:
            raise ValueError(f"network is called kind; expected kind: {row['network']}")
        return row

    @field_validator("kind")
    @classmethod
    def _segments(cls, kind: Kind) -> Kind:
        if kind == "classifier":
            raise ValueError("a classifier gives no masks; every row starts from one anyway")
        return kind


class TableConfig(Config):
    """A table: every row is trained with every budget and seed, from one classifier for each architecture."""

    title: str
    data: str
    train_split: str = "train_aug"
    val_split: str = "val"
    budgets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    weights: dict[str, str] = Field(default_factory=dict)
    """architecture -> ImageNet weights that its classifier starts at; 'pretrained' unless given"""
    pretraining: dict[str, Any] = Field(default_factory=dict)
    """training of the classifiers"""
    training: dict[str, Any] = Field(default_factory=dict)
    """training of all rows"""
    size: int | None = Field(None, ge=32)
    """evaluate images resized to about this side; native size if not given"""
    protocol: Literal["voc", "paper"] = "voc"
    precision: MixedPrecision = "float32"
    """of the evaluation"""
    best: bool = False
    """evaluate, beside the end of each training, the checkpoint that was chosen on the validation split"""
    rows: Annotated[tuple[RowConfig, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> TableConfig:
        for key in ("budget", "seed"):
            for place, part in (("training", self.training), *((row.label, row.train) for row in self.rows)):
                if key in part:
                    raise ValueError(f"{place}: {key} is the table's; give it under {key}s")
        for cell in self.cells():
            cell.train_config()
            try:
                find_reading(cell.network_config())
            except InputError as error:
                raise ValueError(f"{cell.row.label}: {error}") from None
        self.pretraining_config()
        names = [cell.name for cell in self.cells()]
        if len(set(names)) < len(names):
            raise ValueError("budgets, seeds and (kind, architecture) of the rows: expected each once")
        return self

    def cells(self) -> Iterator[Cell]:
        """All trainings, row by row."""
        for row in self.rows:
            for budget in self.budgets:
                for seed in self.seeds:
                    yield Cell(self, row, budget, seed)

    def pretraining_config(self) -> TrainConfig:
        """Training of the classifiers."""
        return TrainConfig(**{**self.pretraining, "budget": 0})

    def classifier_network(self, architecture: str) -> NetworkConfig:
        """The classifier that all networks of an architecture start from."""
        weights = self.weights.get(architecture, "pretrained")
        return NetworkConfig(kind="classifier", architecture=architecture, weights=weights)


@dataclass(frozen=True)
class Cell:
    """One training of the table."""

    table: TableConfig
    row: RowConfig
    budget: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{self.row.name or self.row.kind}_{self.row.architecture}_{self.budget}_s{self.seed}"

    @property
    def classifier(self) -> str:
        """Name of the run of the classifier that it starts from."""
        return classifier_run(self.row.architecture)

    def train_config(self) -> TrainConfig:
        """Its training."""
        return TrainConfig(
            **{**self.table.training, **self.row.train, "budget": self.budget, "seed": self.seed},
        )

    def network_config(self) -> NetworkConfig:
        """Its network."""
        row = self.row
        return NetworkConfig(
            **row.net,
            kind=row.kind,
            architecture=row.architecture,
            classifier=self.classifier,
            classes_at_once=row.classes_at_once,
        )


def classifier_run(architecture: str) -> str:
    """Name of the run of an architecture's classifier."""
    return f"classifier_{architecture}"


def read_table(name: str) -> tuple[Path, TableConfig]:
    """A table's YAML, by path or by name below ``configs/``. InputError naming the file and the key at fault."""
    path = find_config(name)
    content = read_yaml(path, "title, data, budgets, rows")
    try:
        return path, TableConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {validation_line(error)}") from None
