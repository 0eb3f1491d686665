"""wsss.evaluate against slow loops over the pixels, and what it says about incomplete or foreign files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import CLASSES, make_data, make_run, val

from wsss.data import Dataset, load_dataset
from wsss.entries import MetricEntry, read_metrics, save_metrics
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.metrics import ORACLE_THRESHOLDS
from wsss.store import Stage, read_mask, read_seed, write_mask


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path]:
    data = make_data(tmp_path / "data")
    make_run(tmp_path / "run", data)
    return tmp_path / "run", data


def slow_bilinear(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From the definition: pixel centres at half integers, borders repeated, float64."""
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * grid.shape[0] / size[0] - 0.5, 0), grid.shape[0] - 1)
            u = min(max((x + 0.5) * grid.shape[1] / size[1] - 0.5, 0), grid.shape[1] - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
            above = grid[top, left] * (1 - u + left) + grid[top, right] * (u - left)
            below = grid[low, left] * (1 - u + left) + grid[low, right] * (u - left)
            out[y, x] = above * (1 - v + top) + below * (v - top)
    return out


def slow_figures(predictions: dict[str, np.ndarray], dataset: Dataset) -> tuple[float, float, list[float]]:
    """(mIoU, pixel accuracy, IoU by class) in per cent from sets of pixels."""
    pairs = []
    for sample in dataset:
        truth = dataset.load_mask(sample)
        pairs += [(int(p), int(t)) for p, t in zip(predictions[sample.id].flat, truth.flat, strict=True) if t != 255]
    ious = []
    for c in range(dataset.num_classes + 1):
        either = sum(p == c or t == c for p, t in pairs)
        ious.append(100 * sum(p == c and t == c for p, t in pairs) / either)
    return float(np.mean(ious)), 100 * sum(p == t for p, t in pairs) / len(pairs), ious


def slow_maps(run: Path, dataset: Dataset) -> dict[str, tuple[np.ndarray, list[int]]]:
    seeds = {sample.id: read_seed(run / "seeds", sample.id) for sample in dataset}
    return {
        image_id: (
            np.stack([slow_bilinear(m.astype(np.float64), seed.size) for m in seed.scores]),
            seed.classes.tolist(),
        )
        for image_id, seed in seeds.items()
    }


def slow_seed_masks(maps: dict[str, tuple[np.ndarray, list[int]]], background) -> dict[str, np.ndarray]:
    masks = {}
    for image_id, (scores, classes) in maps.items():
        mask = np.zeros(scores.shape[1:], int)
        for y, x in np.ndindex(mask.shape):
            column = scores[:, y, x].tolist()
            if not background(max(column)):
                mask[y, x] = classes[column.index(max(column))]
        masks[image_id] = mask
    return masks


def by_rule(entries: list[MetricEntry], stage: str) -> dict[str, MetricEntry]:
    return {entry.rule: entry for entry in entries if entry.stage == stage}


def test_seeds_equal_slow_loops(tiny):
    run, data = tiny
    dataset = val(data)
    entries = by_rule(evaluate_run(run, dataset, stages=["seeds"], alphas=(4, 1.5), command="cmd"), "seeds")
    assert list(entries)[:2] == ["alpha 4", "alpha 1.5"]
    maps = slow_maps(run, dataset)
    for alpha in (4, 1.5):
        expected = slow_figures(slow_seed_masks(maps, lambda m, a=alpha: m <= (1 - m) ** a), dataset)
        entry = entries[f"alpha {alpha:g}"]
        assert entry.miou == pytest.approx(expected[0], abs=1e-3)
        assert entry.pixel_accuracy == pytest.approx(expected[1], abs=1e-3)
        assert list(entry.iou) == ["background", *CLASSES]
        assert list(entry.iou.values()) == pytest.approx(expected[2], abs=1e-3)
        assert entry.headline == (alpha == 4)
        assert not entry.oracle
        assert entry.images == 4
        assert entry.labels_given
        assert "255 ignored" in entry.protocol
    oracle = next(entry for entry in entries.values() if entry.oracle)
    assert not oracle.headline
    assert "ORACLE" in oracle.protocol
    threshold = float(oracle.rule.removeprefix("oracle threshold "))
    assert threshold in ORACLE_THRESHOLDS

    def at(value: float) -> float:
        return slow_figures(slow_seed_masks(maps, lambda m: m < value), dataset)[0]

    assert oracle.miou == pytest.approx(at(threshold), abs=1e-3)
    place = ORACLE_THRESHOLDS.index(threshold)
    for other in (place - 8, place - 1, place + 1, place + 8):
        assert at(ORACLE_THRESHOLDS[other]) <= oracle.miou + 1e-3


def test_masks_and_affinity_labels_equal_slow_loops(tiny):
    run, data = tiny
    dataset = val(data)
    entries = evaluate_run(run, dataset)
    assert [e.stage for e in entries] == ["seeds"] * 4 + ["affinity_labels", "masks"]
    miou, accuracy, _ = slow_figures({s.id: read_mask(run / "masks", s.id) for s in dataset}, dataset)
    masks = entries[-1]
    assert (masks.rule, masks.headline) == ("masks", True)
    assert masks.miou == pytest.approx(miou, abs=1e-3)
    assert masks.pixel_accuracy == pytest.approx(accuracy, abs=1e-3)
    pairs = []
    for sample in dataset:
        truth, label = dataset.load_mask(sample), read_mask(run / "affinity_labels", sample.id)
        pairs += [(int(p), int(t)) for p, t in zip(label.flat, truth.flat, strict=True) if t != 255]
    confident = [(p, t) for p, t in pairs if p != 255]
    foreground = [p == t for p, t in confident if p]
    background = [t == 0 for p, t in confident if not p]
    labels = entries[-2]
    assert labels.miou is None
    assert labels.coverage == pytest.approx(100 * len(confident) / len(pairs), abs=1e-3)
    assert labels.foreground_precision == pytest.approx(100 * np.mean(foreground), abs=1e-3)
    assert labels.background_precision == pytest.approx(100 * np.mean(background), abs=1e-3)


def test_several_workers_count_the_same(tiny):
    run, data = tiny
    assert evaluate_run(run, val(data), workers=2) == evaluate_run(run, val(data), workers=1)


def test_missing_images_are_counted_and_the_command_is_named(tiny):
    run, data = tiny
    (run / "masks" / "b.png").unlink()
    (run / "masks" / "d.png").unlink()
    with pytest.raises(InputError, match=r"masks: 2 of 4 images of split val are missing \(first: b.png\).*make masks"):
        evaluate_run(run, val(data))
    assert evaluate_run(run, val(data), stages=["seeds"])


def test_mask_of_another_size_is_named(tiny):
    run, data = tiny
    write_mask(run / "masks", "c", np.zeros((5, 6), np.uint8))
    with pytest.raises(InputError, match=r"c\.png: mask is 5 x 6, its ground truth is 30 x 33"):
        evaluate_run(run, val(data), workers=2)


def test_seed_of_another_image_size_is_named(tiny, tmp_path):
    run, data = tiny
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "data" / "masks" / "a.png")
    with pytest.raises(InputError, match=r"a\.npz: made for an image of 24 x 37, its ground truth is 9 x 9"):
        evaluate_run(run, val(data), stages=["seeds"])


def test_half_written_seed_is_named(tiny):
    run, data = tiny
    file = run / "seeds" / "b.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"b\.npz"):
        evaluate_run(run, val(data), stages=["seeds"])


def test_mask_with_an_unknown_class_is_named(tiny):
    run, data = tiny
    write_mask(run / "masks", "a", np.full((24, 37), 9, np.uint8))
    with pytest.raises(InputError, match=r"a\.png: prediction: expected values in .*, got 9"):
        evaluate_run(run, val(data), stages=["masks"])


def test_seeds_of_other_classes_are_refused(tiny, tmp_path):
    run, _ = tiny
    other = make_data(tmp_path / "other", classes=("horse", "cow"))
    with pytest.raises(InputError, match="other classes: cat, dog"):
        evaluate_run(run, val(other))


def test_without_ground_truth(tiny, tmp_path, capsys):
    run, data = tiny
    make_run(run, data, ["own"])
    with pytest.raises(InputError, match="none of 2 images has a ground-truth mask"):
        evaluate_run(run, load_dataset(data, "own"))
    (tmp_path / "data" / "masks" / "a.png").unlink()
    entries = evaluate_run(run, val(data), stages=["masks"])
    assert entries[0].images == 3
    assert "1 of 4 images has no ground truth" in capsys.readouterr().out


def test_run_without_files_of_the_split(tiny, tmp_path):
    _, data = tiny
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds nothing for split val"):
        evaluate_run(tmp_path / "empty", val(data))


def test_image_without_classes_is_all_background(tiny, tmp_path):
    run, data = tiny
    from wsss.store import Seed, write_seed

    truth = val(data).load_mask(val(data).samples[0])
    write_seed(run / "seeds", "a", Seed(np.zeros((0, 6, 8), np.float16), np.zeros(0, np.uint8), truth.shape))
    dataset = val(data)
    only = Dataset(dataset.name, "val", dataset.root, dataset.class_names, dataset.samples[:1], dataset.mask_values)
    entry = evaluate_run(run, only, stages=["seeds"])[0]
    assert entry.pixel_accuracy == pytest.approx(100 * (truth == 0).sum() / (truth != 255).sum(), abs=1e-3)
    assert entry.iou["dog"] is None


def test_classes_beyond_the_labels_mean_that_labels_were_not_given(tiny):
    run, data = tiny
    write_mask(run / "masks", "a", np.full((24, 37), 2, np.uint8))  # a dog in an image labelled cat
    (entry,) = evaluate_run(run, val(data), stages=["masks"])
    assert not entry.labels_given
    assert "no image-level labels given" in entry.protocol


def test_figures_are_merged_by_stage_split_and_rule(tiny):
    run, data = tiny
    first = evaluate_run(run, val(data), alphas=(4, 16), command="first")
    save_metrics(run, first)
    assert read_metrics(run) == first
    train = [entry.model_copy(update={"split": "train"}) for entry in first]
    save_metrics(run, train)
    again = evaluate_run(run, val(data), stages=["seeds"], alphas=(16,), command="second")
    oracle = again[-1].model_copy(update={"rule": "oracle threshold 0.33"})
    save_metrics(run, [again[0], oracle])
    kept = read_metrics(run)
    assert [e for e in kept if e.split == "train"] == train
    now = by_rule([e for e in kept if e.split == "val"], "seeds")
    assert set(now) == {"alpha 4", "alpha 16", "oracle threshold 0.33"}
    assert now["alpha 16"].command == "second"
    assert [rule for rule, entry in now.items() if entry.headline] == ["alpha 16"]
    assert by_rule([e for e in kept if e.split == "val"], "masks")["masks"] == first[-1]


def test_figures_of_a_stage_made_anew_are_dropped(tiny):
    run, data = tiny
    save_metrics(run, evaluate_run(run, val(data)))
    before = {entry.rule for entry in read_metrics(run) if entry.stage == "seeds"}
    (run / "seeds").rename(run / "old")
    Stage.open(run / "seeds", kind="seeds", config={"seed": 99}, class_names=CLASSES, suffix=".npz")
    for file in (run / "old").glob("*.npz"):
        file.rename(run / "seeds" / file.name)
    save_metrics(run, evaluate_run(run, val(data), stages=["seeds"], alphas=(8,)))
    after = [entry for entry in read_metrics(run) if entry.stage == "seeds"]
    assert {"alpha 4", "alpha 32"} <= before
    assert [entry.rule for entry in after if not entry.oracle] == ["alpha 8"]
    assert by_rule(read_metrics(run), "masks")


@pytest.mark.parametrize("content", ['{"entries": [{"stage": "seeds"}]}', "[]", "{", '{"entries": 3}'])
def test_foreign_metrics_file_is_named(tiny, content):
    run, _ = tiny
    (run / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_metrics(run)
