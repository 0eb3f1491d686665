"""The command ``affinity``: anybody's seeds to confident labels, to an affinity network, to masks."""

from __future__ import annotations

import sys

from cyclopts import App

from affinity.label_commands import combine, labels
from affinity.network_commands import refine, train
from wsss.console import LISTS, run, versions

app = App(
    name="affinity",
    version=versions,
    help="Seeds of any method to pseudo-masks: dense CRF, affinity network, random walk.\n\n"
    "In this order, each with --seeds RUN --data DATA --split SPLIT: labels, train, refine.",
    default_parameter=LISTS,
)
app.command(labels)
app.command(train)
app.command(refine)
app.command(combine)


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
