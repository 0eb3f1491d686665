"""Data sets: the devkit layout of PASCAL VOC and a plain folder with a CSV, both read into one `Sample` type."""

from wsss.data.config import VOC_CLASSES, DataConfig, load_config
from wsss.data.files import image_size, read_image, read_label_image
from wsss.data.load import list_splits, load_dataset
from wsss.data.sample import BACKGROUND, IGNORE, Dataset, Sample

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "VOC_CLASSES",
    "DataConfig",
    "Dataset",
    "Sample",
    "image_size",
    "list_splits",
    "load_config",
    "load_dataset",
    "read_image",
    "read_label_image",
]
