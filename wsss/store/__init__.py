"""Run folders: what a stage writes, so that it can be stopped at any point and read by the next one.

``runs/<name>/<stage>/`` holds one file for each image (`write_seed`, `write_mask`) and ``manifest.json`` (`Stage`).
"""

from wsss.store.atomic import atomic, file_hash, locked, read_json, write_json
from wsss.store.masks import read_mask, voc_palette, write_mask
from wsss.store.seeds import Seed, class_array, read_seed, write_seed
from wsss.store.stage import MADE_BY, Stage, config_of, resolve_run

__all__ = [
    "MADE_BY",
    "Seed",
    "Stage",
    "atomic",
    "class_array",
    "config_of",
    "file_hash",
    "locked",
    "read_json",
    "read_mask",
    "read_seed",
    "resolve_run",
    "voc_palette",
    "write_json",
    "write_mask",
    "write_seed",
]
