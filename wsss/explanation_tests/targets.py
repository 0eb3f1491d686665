"""Classes of a data set as outputs of the model under test."""

from __future__ import annotations

from wsss.data import Dataset
from wsss.data.imagenet import class_hint
from wsss.data.wordnet import wordnet_ids
from wsss.errors import InputError
from wsss.explanation_tests.tested import ModelUnderTest


def target_outputs(tested: ModelUnderTest, dataset: Dataset) -> list[int]:
    """The output of the model that each image's class means.

    Classes are matched by name; the WordNet ids of ImageNet-1k also with an ImageNet head of timm, whose 1,000 outputs
    are named "0" to "999" in the order of the ids. An output for the background
    (`ModelUnderTest.first_class`) is never one.

    Raises:
        InputError: an image without exactly one class, or a class that the model does not know.
    """
    for sample in dataset:
        if len(sample.classes) != 1:
            raise InputError(f"image {sample.id}: expected one class, as the test needs, got {len(sample.classes)}")
    shown = sorted({sample.classes[0] for sample in dataset})
    names = [dataset.class_names[index - 1] for index in shown]
    if tested.class_names == tuple(str(output) for output in range(1000)) and not names[0].isdigit():
        order = {name: output for output, name in enumerate(wordnet_ids(), tested.first_class)}
        unknown = [name for name in names if name not in order]
        if unknown:
            raise InputError(
                f"class {unknown[0]!r} of data set {dataset.name} is no WordNet id of ImageNet-1k (such as "
                "n02123045), the only classes that the model knows; give a `classifier` trained on these classes"
            )
    else:
        order = {name: output for output, name in enumerate(tested.class_names, tested.first_class)}
        for name in names:
            if name not in order:
                raise InputError(
                    f"class {name!r} of data set {dataset.name} is not one of the model's: {class_hint(name, order)}"
                )
    known = {index: order[name] for index, name in zip(shown, names, strict=True)}
    return [known[sample.classes[0]] for sample in dataset]
