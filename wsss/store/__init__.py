"""Run folders: what a stage writes, so that it can be stopped at any point and read by the next one.

``runs/<name>/<stage>/`` holds one file for each image (`write_seed`, `write_mask`), or a training, and
``manifest.json`` (`Stage`). What results were made of is told by content (`due`, `Training`).
"""

from wsss.store.atomic import atomic, file_hash, locked, read_json, write_json
from wsss.store.inputs import inputs_of
from wsss.store.masks import read_mask, voc_palette, write_mask
from wsss.store.seeds import Seed, class_array, read_seed, write_seed
from wsss.store.stage import Stage, config_of, resolve_run
from wsss.store.training import Training
from wsss.store.work import DATA, account, due, require

__all__ = [
    "DATA",
    "Seed",
    "Stage",
    "Training",
    "account",
    "atomic",
    "class_array",
    "config_of",
    "due",
    "file_hash",
    "inputs_of",
    "locked",
    "read_json",
    "read_mask",
    "read_seed",
    "require",
    "resolve_run",
    "voc_palette",
    "write_json",
    "write_mask",
    "write_seed",
]
