"""Whether seeds depend on how they were computed: precision, batch size, number of threads, rules.

    OMP_NUM_THREADS=1 vitseg seeds --name lrp_vit ...
    OMP_NUM_THREADS=1 vitseg seeds --name double  --precision float64 ...
    OMP_NUM_THREADS=1 vitseg seeds --name single1 --batch-size 1 ...
    OMP_NUM_THREADS=2 vitseg seeds --name threads ...
    python benchmarks/seed_agreement.py lrp_vit double single1 threads --data voc12_animals --split val

Each run is compared with the first: Pearson correlation of each image's maps of each class, as they were written, and
mIoU by the alpha rule, image-level labels given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from wsss.data import load_dataset
from wsss.metrics import ConfusionMatrix, seed_to_mask
from wsss.store import read_seed

ALPHA, CLOSE = 8, 0.999


def correlations(found: np.ndarray, wanted: np.ndarray) -> list[float]:
    """Of maps (K, h, w), class by class; 1 where both are constant."""
    return [
        float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() and b.std() else float(a.std() == b.std())
        for a, b in zip(found.astype(np.float64), wanted.astype(np.float64), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="RUN")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", default="voc12_animals")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()

    dataset = load_dataset(options.data, options.split, options.root)
    shown = [sample for sample in dataset if sample.classes]
    folders = [options.runs / name / "seeds" for name in options.names]
    samples = [sample for sample in shown if all((folder / f"{sample.id}.npz").is_file() for folder in folders)]
    matrices = [ConfusionMatrix(dataset.num_classes + 1) for _ in folders]
    agreement: list[list[tuple[float, str]]] = [[] for _ in folders]
    for sample in samples:
        seeds = [read_seed(folder, sample.id) for folder in folders]
        truth = dataset.load_mask(sample)
        for matrix, seed, found in zip(matrices, seeds, agreement, strict=True):
            matrix.update(seed_to_mask(seed.upsample(), seed.classes, alpha=ALPHA), truth)
            found += [(value, sample.id) for value in correlations(seed.scores, seeds[0].scores)]

    print(f"{len(samples)} of {len(shown)} images of {dataset.name}/{dataset.split}; {len(agreement[0])} maps")
    print(f"{'run':>16s}  mIoU     least correlation      1st percentile  median    maps under {CLOSE}")
    for name, matrix, found in zip(options.names, matrices, agreement, strict=True):
        values = np.array([value for value, _ in found])
        least, where = min(found)
        under = f"{(values < CLOSE).sum()} of {len({image for value, image in found if value < CLOSE})} images"
        row = (
            f"{100 * matrix.miou:5.2f}  {least:.6f} ({where})  {np.percentile(values, 1):.6f}  {np.median(values):.6f}"
        )
        print(f"{name:>16s}  {row}  {under}")


if __name__ == "__main__":
    main()
