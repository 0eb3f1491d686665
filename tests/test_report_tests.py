"""The explanation tests in metrics.json and in the report: figures, differences, curves, maps, and the command."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from small_run import VAL, make_data, make_run, val
from test_report import Page

import wsss.cli
from wsss.console import run as run_command
from wsss.entries import TestEntry, read_metrics, read_tests, save_metrics, save_tests
from wsss.errors import InputError
from wsss.evaluate import evaluate_run
from wsss.explanation_tests.figures import image_ious, perturbation_figures, segmentation_figures
from wsss.report import write_report
from wsss.report.curves import COLOURS, curves_svg
from wsss.report.explanation import COLUMNS, show_interval, test_sections, verdict
from wsss.report.maps import choose_ranked, draw_maps, read_maps
from wsss.store import Stage

PART = 5  # images in a part of these tests


def make_test(
    run: Path,
    test: str,
    ids,
    *,
    good: float = 0.5,
    seed: int = 0,
    data: str = "tiny",
    split: str = "val",
    method: str = "rollout",
    model: str = "vit_small",
    settings: str = "rules robust, first block 1",
    command: str = "vitseg some-test",
) -> TestEntry:
    """Write the parts, the manifest and the entry of a test, with random results (the better, the larger `good`)."""
    rng = np.random.default_rng(seed)
    n, folder = len(ids), run / test / f"{data}_{split}"
    results = {"ids": np.array(ids), "predicted": rng.integers(0, 9, n)}
    if test == "perturbation":
        left = 1 - np.linspace(0, 0.9, 10)
        chance = 0.9 * np.stack([left ** (1 - good), left ** (1 + 2 * good)])  # negative, positive
        correct = rng.random((n, 2, 1, 1)) < chance
        correct[..., 0] = correct[:, :1, :1, 0]  # the clean image is one
        results |= {"target": rng.integers(0, 9, n), "correct": correct}
        found = perturbation_figures(results)
    else:
        right = rng.integers(50, 150, (n, 2)) * (0.4 + 0.6 * good)
        wrong = rng.integers(20, 50, (n, 2)) * (1.2 - good)
        confusion = np.stack([right[:, 0], wrong[:, 0], wrong[:, 1], right[:, 1]], 1).astype(np.int64).reshape(n, 2, 2)
        maps = rng.random((n, 4, 6)).astype(np.float16)
        results |= {"confusion": confusion, "ap": rng.random(n), "f1": rng.random(n), "maps": maps}
        found = segmentation_figures(results)
    stage = Stage.open(
        folder,
        kind=f"{test}_test",
        config={"method": method, "settings": settings},
        class_names=("cat", "dog"),
        suffix=".npz",
        inputs={"model": model},
    )
    for place, start in enumerate(range(0, n, PART)):
        np.savez(folder / f"part-{place:05d}.npz", **{key: v[start : start + PART] for key, v in results.items()})
    stage.done(command=command, split=split, counts={"images": n}, seconds=2)
    entry = TestEntry(
        test=test,
        data=data,
        split=split,
        images=n,
        model=model,
        method=method,
        figures=found.values,
        intervals=found.intervals,
        curves=found.curves,
        settings=settings,
        folder=f"{test}/{data}_{split}",
        command=command,
        protocol=f"protocol of the {test} test",
        source=stage.fingerprint,
    )
    save_tests(run, [entry])
    return entry


IDS = [f"image_{k:02d}" for k in range(13)]


@pytest.fixture
def tested(tmp_path: Path) -> dict[str, Path]:
    """Two runs with both tests, on other data than the small run's."""
    runs = {name: tmp_path / "runs" / name for name in ("vit_small.rollout", "vit_small.gradcam")}
    for seed, (name, run) in enumerate(runs.items()):
        for test in ("perturbation", "segmentation"):
            method = name.split(".")[1]
            make_test(run, test, IDS, seed=seed, good=0.2 + 0.6 * seed, method=method, data="photos", split="all")
    return runs


def test_metrics_file_keeps_tests_and_stages_apart(tmp_path):
    data = make_data(tmp_path / "data")
    run = tmp_path / "run"
    make_run(run, data)
    first = make_test(run, "segmentation", IDS)
    stages = evaluate_run(run, val(data))
    save_metrics(run, stages)
    assert read_tests(run) == [first]
    other = make_test(run, "perturbation", IDS, split="train")
    again = first.model_copy(update={"figures": {"miou": 12.5}})
    save_tests(run, [again])
    assert read_tests(run) == [other, again]
    assert sorted(e.rule for e in read_metrics(run)) == sorted(e.rule for e in stages)
    assert read_tests(tmp_path / "nothing") == read_metrics(tmp_path / "nothing") == []


def test_a_run_of_tests_alone_has_no_stage_figures(tmp_path):
    make_test(tmp_path / "run", "segmentation", IDS)
    assert read_metrics(tmp_path / "run") == []
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["entries"] == []


@pytest.mark.parametrize("content", ["[]", '{"entries": [], "tests": [{"test": "segmentation"}]}', '{"tests": 3}', "{"])
def test_foreign_metrics_file_is_named(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json: not "):
        read_tests(tmp_path)
    with pytest.raises(InputError, match=r"metrics\.json: not "):
        save_tests(tmp_path, [])


def test_sections_mark_the_best_and_the_difference(tested):
    perturbation, segmentation = test_sections(tested)
    assert (perturbation.title, segmentation.title) == (
        "Perturbation test on photos / all",
        "Segmentation test on photos / all",
    )
    for section in (perturbation, segmentation):
        first, second = section.rows
        assert (first.label, second.label, section.baseline) == ("rollout", "gradcam", "rollout")
        assert first.differences is None
        for column in COLUMNS[section.test]:
            a, b = (row.entry.figures[column.key] for row in section.rows)
            difference, low, high = second.differences[column.key]
            assert difference == pytest.approx(b - a)
            assert low <= difference <= high
            ahead = {"higher": round(b, 2) - round(a, 2), "lower": round(a, 2) - round(b, 2), "": 0}[column.better]
            assert (column.key in second.best, column.key in first.best) == (
                bool(column.better) and ahead >= 0,
                bool(column.better) and ahead <= 0,
            )
            sure = ahead and (low > 0 or high < 0)
            assert verdict(column, (difference, low, high)) == (("better" if ahead > 0 else "worse") if sure else "")


def test_a_sure_difference_is_called_better_or_worse(tmp_path):
    runs = {name: tmp_path / name for name in ("bad", "good")}
    for name, run in runs.items():
        make_test(run, "perturbation", [f"i{k}" for k in range(120)], good=0.9 * (name == "good"), method=name)
    for names, word in ((("bad", "good"), "better"), (("good", "bad"), "worse")):
        (section,) = test_sections({name: runs[name] for name in names})
        _, negative, _, positive, _ = COLUMNS["perturbation"]
        differences = section.rows[1].differences
        assert verdict(negative, differences["negative_predicted"]) == word
        assert verdict(positive, differences["positive_predicted"]) == word
        assert (differences["negative_predicted"][0] > 0) == (differences["positive_predicted"][0] < 0)


def test_rows_of_one_method_are_told_apart_by_their_run(tmp_path):
    runs = {name: tmp_path / name for name in ("robust", "exact")}
    for name, run in runs.items():
        make_test(run, "segmentation", IDS, settings=f"rules {name}", seed=len(name))
    (section,) = test_sections(runs)
    assert [row.label for row in section.rows] == ["robust", "exact"]
    assert section.baseline == "robust"
    assert not section.notes


def test_clean_accuracy_is_compared_between_models_alone(tmp_path):
    for model, keys in (("vit_small", COLUMNS["perturbation"][1:]), ("vit_large", COLUMNS["perturbation"])):
        make_test(tmp_path / "a", "perturbation", IDS)
        make_test(tmp_path / model, "perturbation", IDS, method="gradcam", model=model)
        (section,) = test_sections({"a": tmp_path / "a", "b": tmp_path / model})
        assert section.compared == keys
        assert any("differ in their model" in note for note in section.notes) == (model == "vit_large")


def test_only_one_split(tested):
    make_test(tested["vit_small.rollout"], "segmentation", IDS)
    assert len(test_sections(tested)) == 3
    (section,) = test_sections(tested, ("tiny", "val"))
    assert [row.run for row in section.rows] == ["vit_small.rollout"]
    assert section.baseline == ""


def test_only_one_test_is_read(tested):
    """Results of the other one may be damaged, or take long."""
    part = tested["vit_small.gradcam"] / "segmentation/photos_all/part-00001.npz"
    part.write_bytes(part.read_bytes()[:200])
    (section,) = test_sections(tested, ("photos", "all"), "perturbation")
    assert section.test == "perturbation" and section.baseline == "rollout"
    with pytest.raises(InputError, match=r"part-00001\.npz"):
        test_sections(tested, ("photos", "all"), "segmentation")


def test_undefined_figures_are_null_and_shown_as_such(tmp_path):
    """A set whose masks are ignored throughout has no figure: no NaN, which is no JSON, and no interval."""
    empty = {"ids": np.array(IDS), "confusion": np.zeros((13, 2, 2), np.int64)}
    empty |= {
        "predicted": np.zeros(13),
        "ap": np.full(13, np.nan),
        "f1": np.full(13, np.nan),
        "maps": np.zeros((13, 4, 6)),
    }
    found = segmentation_figures(empty)
    assert set(found.values.values()) == set(found.intervals.values()) == {None}
    for name in ("a", "b"):
        run = tmp_path / name
        entry = make_test(run, "segmentation", IDS, method=name)
        for part in (run / entry.folder).glob("part-*.npz"):
            part.unlink()
        np.savez(run / entry.folder / "part-00000.npz", **empty)
        entry = entry.model_copy(update={"figures": found.values, "intervals": found.intervals})
        save_tests(run, [entry])
        assert read_tests(run) == [entry]
        json.loads((run / "metrics.json").read_text(), parse_constant=pytest.fail)
    (section,) = test_sections({name: tmp_path / name for name in ("a", "b")})
    assert section.rows[0].best == frozenset() and section.baseline == "a"
    assert show_interval(None) == show_interval((np.nan, np.nan)) == ""
    files = write_report([tmp_path / "a", tmp_path / "b"], None, tmp_path / "r.html", command="wsss compare a b")
    texts = [path.read_text() for path in (files.html, files.markdown, files.csv)]
    assert not any(re.search(r"\bnan\b|None", text) for text in texts)


def test_order_of_the_images_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    make_test(tmp_path / "a", "segmentation", IDS)
    make_test(tmp_path / "b", "segmentation", IDS)
    folder = tmp_path / "b" / "segmentation" / "tiny_val"
    parts = sorted(folder.glob("part-*.npz"))
    whole = {key: np.concatenate([np.load(part)[key] for part in parts]) for key in np.load(parts[0]).files}
    order = rng.permutation(len(IDS))
    for place, part in enumerate(parts):
        np.savez(part, **{key: value[order][place * PART : place * PART + PART] for key, value in whole.items()})
    (section,) = test_sections({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert all(max(map(abs, span)) < 1e-9 for span in section.rows[1].differences.values())
    pictures = [dict(block.cells) for block in draw_maps(section, None, count=3)]
    assert pictures
    assert all(cells["a"].uri == cells["b"].uri for cells in pictures)


def test_what_a_reader_must_know_is_noted(tested, capsys):
    rollout, gradcam = tested.values()
    other = make_test(gradcam, "segmentation", IDS[:9], data="photos", split="all", method="gradcam")
    assert other.images == 9  # parts of the longer run are still there: not those of the figures
    notes = [note for section in test_sections(tested) for note in section.notes]
    assert any("12 of 9 images" in note for note in notes)
    assert any("differ in their number of images" in note for note in notes)
    (gradcam / "segmentation" / "photos_all" / "part-00002.npz").unlink()
    np.savez(
        gradcam / "segmentation" / "photos_all" / "part-00001.npz",
        **{key: value[:4] for key, value in np.load(gradcam / "segmentation/photos_all/part-00001.npz").items()},
    )
    segmentation = test_sections(tested)[1]
    assert any("other images than vit_small.rollout" in note for note in segmentation.notes)
    assert segmentation.baseline == ""
    for part in (rollout / "perturbation" / "photos_all").glob("part-*"):
        part.unlink()
    manifest = gradcam / "perturbation" / "photos_all" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("first block 1", "first block 2"))
    capsys.readouterr()
    perturbation = test_sections(tested)[0]
    assert len(perturbation.rows) == 2  # the figures stay
    assert any("no results per image" in note for note in perturbation.notes)
    assert any("run anew since" in note for note in perturbation.notes)
    warned = capsys.readouterr().err
    assert all(note in warned for note in perturbation.notes)


def test_damaged_results_are_named(tested):
    part = tested["vit_small.gradcam"] / "segmentation" / "photos_all" / "part-00001.npz"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(InputError, match=r"part-00001\.npz"):
        test_sections(tested)
    with pytest.raises(InputError, match=r"part-00001\.npz"):
        read_maps(part.parent, {IDS[7]})


def test_curves_lie_where_the_accuracies_are(tested):
    section = test_sections(tested)[0]
    svg = curves_svg(section.rows, "curves of two <methods>")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "curves of two <methods>"
    assert not re.search(r"url\(|https?:|\bid=|<style", svg)
    assert {"pixels removed, %", "top-1 accuracy, %"} <= {element.text for element in root.iter("text")}
    drawn = {}
    for place, row in enumerate(section.rows):
        paths = [p.get("d") for p in root.iter("path") if COLOURS[place] in p.get("style", "")]
        points = [np.array(re.findall(r"[-\d.]+", d), float).reshape(-1, 2) for d in paths]
        assert [p.shape for p in points] == [(10, 2)] * 4
        drawn[row.run] = points
    order = ("negative_predicted", "positive_predicted", "negative_target", "positive_target")
    for panel, key in enumerate(order):
        y = np.concatenate([drawn[row.run][panel][:, 1] for row in section.rows])
        accuracy = np.concatenate([row.entry.curves[key] for row in section.rows])
        slope, offset = np.polyfit(accuracy, y, 1)  # one scale for both lines of a panel
        assert slope < 0
        np.testing.assert_allclose(y, slope * accuracy + offset, atol=0.01)
        x = drawn[section.rows[0].run][panel][:, 0]
        np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.01)


def test_no_curves_no_picture(tested):
    assert curves_svg(test_sections(tested)[1].rows, "segmentation") == ""


def test_image_iou_is_the_slow_one():
    rng = np.random.default_rng(3)
    truth, found = rng.integers(0, 2, (6, 50)), rng.integers(0, 2, (6, 50))
    truth[4], found[4] = 0, 0  # no foreground anywhere
    confusion = np.array(
        [
            [[(t == i) @ (f == j).astype(int) for j in range(2)] for i in range(2)]
            for t, f in zip(truth, found, strict=True)
        ]
    )
    confusion[5] = 0  # every pixel ignored
    expected = []
    for t, f in zip(truth[:5], found[:5], strict=True):
        parts = [((t == c) & (f == c), (t == c) | (f == c)) for c in range(2)]
        expected.append(np.mean([a.sum() / b.sum() for a, b in parts if b.any()]))
    np.testing.assert_allclose(image_ious(confusion), [*expected, 0])


def test_images_from_best_to_worst():
    ids = [f"i{k:02d}" for k in range(21)]
    scores = np.random.default_rng(1).permutation(21) / 20
    ranked = sorted(ids, key=lambda i: -scores[ids.index(i)])
    chosen = choose_ranked(ids, scores, 9)
    assert [i for i, _ in chosen] == [*ranked[:3], *ranked[9:12], *ranked[18:]]
    assert [place.split(",")[0] for _, place in chosen] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert chosen[3][1] == "median, rank 10 of 21"
    assert choose_ranked(["b", "a"], np.array([0.5, 0.5]), 8) == [("a", "rank 1 of 2"), ("b", "rank 2 of 2")]
    assert [i for i, _ in choose_ranked(ids, scores, 1)] == [ranked[0], ranked[10], ranked[20]]


def decode(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_maps_show_where_the_relevance_is(tmp_path):
    run = tmp_path / "run"
    make_test(run, "segmentation", IDS[:2])
    part = run / "segmentation" / "tiny_val" / "part-00000.npz"
    content = dict(np.load(part))
    content["maps"] = np.zeros((2, 4, 6), np.float16)
    content["maps"][0, 0, 5] = content["maps"][1, 3, 0] = 1  # upper right corner, lower left corner
    np.savez(part, **content)
    (section,) = test_sections({"run": run})
    blocks = {block.id: block for block in draw_maps(section, None, count=3)}
    assert set(blocks) == set(IDS[:2])
    for image_id, corner in ((IDS[0], (0, -1)), (IDS[1], (-1, 0))):
        (cell,) = blocks[image_id].cells
        colour = np.ptp(decode(cell[1].uri).astype(int), -1)
        inside = tuple(8 if end == 0 else -9 for end in corner)  # the outline runs along the edge
        assert colour[inside] > 60
        assert colour[inside[::-1]] < 12  # the grey of the paper
        iou = image_ious(section.results["run"]["confusion"])[IDS.index(image_id)]
        assert cell[1].caption == f"mIoU {100 * iou:.1f}"
        assert blocks[image_id].photograph is None


def test_report_of_tests_alone(tested, tmp_path):
    files = write_report(list(tested.values()), None, tmp_path / "r.html", command="wsss compare both")
    text = files.html.read_text()
    page = Page(text)
    assert "vit_small.rollout and vit_small.gradcam on photos / all" in page.text
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:image/[^\"]*", "", text))
    assert "Stage by stage" not in page.text
    assert "labels given" not in page.text.lower()
    assert len(page.images) == 9 * 2  # three images each at both ends and in the middle, two runs, no photographs
    assert {image["src"][:11] for image in page.images} == {"data:image/"}
    assert text.count('<svg xmlns="') + text.count('class="curves"') == 1
    for said in ("protocol of the perturbation test", "protocol of the segmentation test", "vitseg some-test"):
        assert said in page.text
    assert "rules robust, first block 1" in page.text
    figures, differences, curves, more, _ = page.tables
    assert len(curves) == 1 + 2 * 4
    entry = read_tests(tested["vit_small.rollout"])[0]
    assert figures[1][2].startswith(f"{entry.figures['negative_predicted']:.2f}")
    assert figures[1][-2] == "13"
    assert differences[1][0] == more[0][0].replace("method", "gradcam")


def test_html_markdown_and_csv_say_the_same(tested, tmp_path):
    files = write_report(list(tested.values()), None, tmp_path / "r.html")
    page = Page(files.html.read_text())
    markdown = {}
    for chunk in files.markdown.read_text().split("\n## ")[1:]:
        lines = [line for line in chunk.splitlines() if line.startswith("|")]
        markdown[chunk.split()[0].lower()] = [
            [cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in lines
        ]
    rows = list(csv.DictReader(files.csv.open()))
    assert [(row["run"], row["test"]) for row in rows] == [
        (run, test) for test in ("perturbation", "segmentation") for run in tested
    ]
    sections = {section.test: section for section in test_sections(tested)}
    html = {"perturbation": page.tables[:2], "segmentation": page.tables[3:5]}
    for row in rows:
        section = sections[row["test"]]
        place = [r.run for r in section.rows].index(row["run"])
        entry, differences = section.rows[place].entry, section.rows[place].differences
        assert (row["model"], row["method"], row["settings"]) == (entry.model, entry.method, entry.settings)
        assert (row["protocol"], row["command"], row["images"]) == (entry.protocol, entry.command, "13")
        for k, column in enumerate(section.columns):
            value, (low, high) = entry.figures[column.key], entry.intervals[column.key]
            assert float(row[column.key]) == pytest.approx(value, abs=1e-4)
            assert float(row[f"{column.key}:low"]) == pytest.approx(low, abs=1e-4)
            assert float(row[f"{column.key}:high"]) == pytest.approx(high, abs=1e-4)
            span = f"{low:.2f} to {high:.2f}"
            assert html[row["test"]][0][place + 1][1 + k] == f"{value:.2f}{span}"
            assert markdown[row["test"]][place + 2][4 + k] == f"{value:.2f} ({span})"
            if differences is None:
                assert row[f"{column.key}:difference"] == ""
                continue
            difference, low, high = differences[column.key]
            assert float(row[f"{column.key}:difference"]) == pytest.approx(difference, abs=1e-4)
            if column in section.compared:
                k, span = section.compared.index(column), f"{low:.2f} to {high:.2f}"
                said = verdict(column, differences[column.key])
                assert html[row["test"]][1][1][1 + k] == f"{difference:+.2f}{said and f' {said}'}{span}"
                assert markdown[row["test"]][-1][1 + k] == f"{difference:+.2f} ({span})"
        if row["test"] == "perturbation":
            curve = [float(x) for x in row["negative_target:curve"].split()]
            assert curve == pytest.approx(entry.curves["negative_target"], abs=1e-4)


def test_stages_and_tests_of_one_split_on_one_page(tmp_path):
    data = make_data(tmp_path / "data")
    runs = [tmp_path / "runs" / name for name in ("chain", "evaluation")]
    make_run(runs[0], data)
    save_metrics(runs[0], evaluate_run(runs[0], val(data)))
    make_test(runs[1], "segmentation", list(VAL))
    make_test(runs[1], "perturbation", IDS, data="elsewhere")
    files = write_report(runs, val(data), tmp_path / "r.html")
    page = Page(files.html.read_text())
    assert "Stage by stage" in page.text
    assert "Segmentation test on tiny / val" in page.text
    assert "elsewhere" not in page.text
    assert "evaluation has no figures" not in page.text
    pictures = [image["alt"] for image in page.images]
    assert len(pictures) == len(VAL) * (2 + 3) + len(VAL) * (2 + 1)
    assert sum(alt.startswith("Photograph a,") for alt in pictures) == 2
    sizes = {alt: (int(i["width"]), int(i["height"])) for alt, i in zip(pictures, page.images, strict=True)}
    assert len({size for alt, size in sizes.items() if "image a," in alt or "Photograph a," in alt}) == 1
    rows = list(csv.DictReader(files.csv.open()))
    assert [row["run"] for row in rows if row["stage"]] == ["chain"] * 6
    assert [(row["run"], row["test"]) for row in rows if row["test"]] == [("evaluation", "segmentation")]
    text = files.markdown.read_text()
    assert text.index("| chain |") < text.index("## Segmentation test on tiny / val")

    alone = Page(write_report(runs[1:], val(data), tmp_path / "alone.html", images=["b"]).html.read_text())
    assert [image["alt"].split(",")[0] for image in alone.images] == [
        "Photograph b",
        "Ground truth of image b",
        "Map of rollout on image b",
    ]


def test_names_cannot_inject_markup(tmp_path):
    run = tmp_path / "run<i>"
    for test in ("perturbation", "segmentation"):
        make_test(run, test, ["<b>one", "two"], method="<b>x|y", settings="<u>", command="do <em>", data="<s>")
    files = write_report([run], None, tmp_path / "r.html")
    page = Page(files.html.read_text())
    assert not {"b", "i", "u", "em", "s"} & {tag for tag, _ in page.tags}
    assert "<b>x|y" in page.text
    assert "<b>x\\|y" in files.markdown.read_text()


def test_a_figure_that_is_undefined_is_a_dash(tmp_path):
    entry = make_test(tmp_path / "run", "segmentation", IDS)
    undefined = {"figures": entry.figures | {"mf1": float("nan")}, "intervals": {}}
    save_tests(tmp_path / "run", [entry.model_copy(update=undefined)])
    files = write_report([tmp_path / "run"], None, tmp_path / "r.html")
    assert Page(files.html.read_text()).tables[0][1][4] == "–"  # noqa: RUF001
    assert next(csv.DictReader(files.csv.open()))["mf1"] == ""


def test_bad_requests(tested, tmp_path):
    data = make_data(tmp_path / "data")
    runs = list(tested.values())
    with pytest.raises(InputError, match="`images` nobody: not in the segmentation test"):
        write_report(runs, None, tmp_path / "r.html", images=[IDS[0], "nobody"])
    with pytest.raises(InputError, match=r"no files of split val of tiny.*its explanation tests are on photos / all"):
        write_report(runs, val(data), tmp_path / "r.html")
    chain = tmp_path / "chain"
    make_run(chain, data)
    with pytest.raises(InputError, match="chain: no explanation test"):
        write_report([*runs, chain], None, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.fixture
def call(capsys):
    """Run words of ``wsss`` in this process; returns (status, stdout, stderr)."""

    def launch(*words: object) -> tuple[int, str, str]:
        app = importlib.reload(wsss.cli).app  # an app is run once a process
        capsys.readouterr()
        status = run_command(app, [str(word) for word in words])
        return (status, *capsys.readouterr())

    return launch


def test_command(call, tested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call("compare", *tested, "--out", "out/r.html")
    assert (status, err) == (0, "")
    assert "out/r.html" in out
    page = Path("out/r.html").read_text()
    assert "wsss compare vit_small.rollout vit_small.gradcam --out out/r.html --pictures 8 --alpha 8" in page
    assert "Perturbation test on photos / all" in page
    for words, parts in (
        (("--data", "voc12"), ("--data: give --split with it",)),
        (("--split", "val"), ("--split: give --data with it",)),
        (("--root", "x"), ("--root x",)),
        (("--images", "nobody"), ("--images nobody",)),
    ):
        status, _, err = call("compare", *tested, "--out", "no.html", *words)
        assert (status, err.count("\n")) == (2, 1)
        assert all(part in err for part in parts)
    assert not Path("no.html").exists()
