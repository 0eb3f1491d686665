"""Data sets: PASCAL VOC, ImageNet, ImageNet-segmentation, a folder with a CSV; all read into one `Sample` type."""

from wsss.data.config import VOC_CLASSES, DataConfig, load_config
from wsss.data.files import image_size, read_image, read_label_image
from wsss.data.foreground import check_foreground, foreground_set, foreground_truth, paired_folders
from wsss.data.layouts import register_layout
from wsss.data.load import list_splits, load_dataset
from wsss.data.sample import BACKGROUND, IGNORE, Dataset, Sample, evenly_spread

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "VOC_CLASSES",
    "DataConfig",
    "Dataset",
    "Sample",
    "check_foreground",
    "evenly_spread",
    "foreground_set",
    "foreground_truth",
    "image_size",
    "list_splits",
    "load_config",
    "load_dataset",
    "paired_folders",
    "read_image",
    "read_label_image",
    "register_layout",
]
