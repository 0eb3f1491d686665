"""Options of the commands ``perturbation-test`` and ``segmentation-test`` of both families, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Classifier = Annotated[str | None, Parameter(help="Checkpoint (.safetensors), or the name of a run that holds one.")]
Weights = Annotated[str, Parameter(help="Weights of --architecture: 'pretrained' (fetched by timm) or a file.")]
Name = Annotated[str | None, Parameter(help="Name of the run, for one method; MODEL.METHOD unless given.")]
Split = Annotated[str, Parameter(help="Split to test on.")]
MaskData = Annotated[str | None, Parameter(help="Data set: a YAML file, or a name below configs/data.")]
MaskSplit = Annotated[str | None, Parameter(help="Split of --data to test on.")]
Classes = Annotated[list[str] | None, Parameter(help="Take only images of these classes of --data.")]
Images = Annotated[Path | None, Parameter(help="Folder of photographs, instead of --data.")]
Masks = Annotated[
    Path | None,
    Parameter(
        help="Folder of PNG masks with the names of the photographs; any value but 0 and 255 (ignored) is foreground "
        "unless --foreground-value says which."
    ),
]
