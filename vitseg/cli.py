"""The command ``vitseg``: a classifier of image-level labels, its explanations, and seeds made of them."""

from __future__ import annotations

import sys

from cyclopts import App

from vitseg.classifier_commands import evaluate_classifier, train_classifier
from vitseg.evaluation_commands import perturbation_test, segmentation_test
from vitseg.explain_commands import explain, explore, list_methods
from vitseg.seed_commands import seeds
from wsss.console import LISTS, run, versions

app = App(
    name="vitseg",
    version=versions,
    help="Relevance through vision transformers: explanations of images, and seeds for segmentation.\n\n"
    "To begin with: vitseg explain cat.jpg --architecture vit_base_patch16_224 --top 3",
    default_parameter=LISTS,
)
app.command(explain)
app.command(explore)
app.command(train_classifier)
app.command(evaluate_classifier)
app.command(seeds)
app.command(perturbation_test)
app.command(segmentation_test)
app.command(list_methods)


def main() -> None:
    """Entry point of ``vitseg``."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
