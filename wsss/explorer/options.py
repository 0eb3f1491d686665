"""Options of the commands ``explore`` of both families, each said once."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Port = Annotated[int, Parameter(help="Port of the page; 0 takes one that is free.")]
Host = Annotated[
    str, Parameter(help="Address that the page is served on; 0.0.0.0 lets everybody in who reaches this machine.")
]
