"""Data sets: both layouts read into samples, and what is wrong with them found and named."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.configs import config_root
from wsss.data import VOC_CLASSES, DataConfig, image_size, list_splits, load_config, load_dataset, read_image
from wsss.data.check import check_dataset
from wsss.errors import InputError

OWN = DataConfig(name="own", layout="folder", classes=("cat", "dog"))
VOC = DataConfig(name="voc", layout="voc", classes=("dog", "cat"))  # an order other than VOC's own
CAT, DOG, SHEEP = (VOC_CLASSES.index(name) + 1 for name in ("cat", "dog", "sheep"))


def photograph(path: Path, height: int = 6, width: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, values: list[int], height: int = 6, width: int = 8) -> None:
    """A mask with one column for each value, the last one repeated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.array([*values, *[values[-1]] * (width - len(values))], np.uint8)
    Image.fromarray(np.tile(row, (height, 1))).save(path)


def table(root: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("image", "classes", "split")) -> None:
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three images, two masks; the CSV names images with and without suffix."""
    for name in ("a.jpg", "b.v2.PNG", "c.webp"):
        photograph(tmp_path / "images" / name)
    mask(tmp_path / "masks" / "a.png", [0, 1, 255])
    mask(tmp_path / "masks" / "b.v2.png", [0, 1, 2])
    table(tmp_path, ("a", "cat", "train"), ("b.v2.PNG", "dog; cat", "train"), ("c", "background", "val"))
    return tmp_path


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Three images, each with another source of labels: XML, cls_labels.npy, mask."""
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("xml", "npy", "mask"):
        photograph(base / "JPEGImages" / f"{name}.jpg")
        mask(base / "SegmentationClass" / f"{name}.png", [0, CAT, SHEEP, 255])
    (base / "Annotations").mkdir()
    (base / "Annotations" / "xml.xml").write_text(
        "<annotation><object><name>dog</name><difficult>1</difficult><part><name>head</name></part></object>"
        "<object><name>person</name></object><object><name>dog</name></object></annotation>"
    )
    row = np.zeros(20, np.uint8)
    row[[DOG - 1, CAT - 1]] = 1
    np.save(tmp_path / "cls_labels.npy", {"npy": row, "xml": np.ones(20, np.uint8)}, allow_pickle=True)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("xml\nnpy\nmask\n")
    (lists / "train_aug.txt").write_text("/JPEGImages/npy.jpg /SegmentationClassAug/npy.png\n\n")
    return tmp_path


# --- folder ---------------------------------------------------------------------------------------------------------


def test_folder(own: Path) -> None:
    data = load_dataset(OWN, "train", own)
    assert [(s.id, s.classes, s.image_path.name) for s in data] == [("a", (1,), "a.jpg"), ("b.v2", (1, 2), "b.v2.PNG")]
    assert np.array_equal(data.labels(), [[1, 0], [1, 1]])
    assert np.unique(data.load_mask(data.samples[0])).tolist() == [0, 1, 255]
    everything = load_dataset(OWN, "all", own)
    assert [s.id for s in everything] == ["a", "b.v2", "c"]
    assert everything.samples[2].classes == () and everything.samples[2].mask_path is None
    assert list_splits(OWN, own) == ("train", "val")


def test_folder_with_a_chosen_list(own: Path) -> None:
    """Classes that the masks know and the list does not: pixels ignored, labels passed over, indices by the list."""
    config = DataConfig(name="own", layout="folder", classes=("dog",), mask_values=("cat", "dog"))
    data = load_dataset(config, "train", own)
    assert [s.classes for s in data] == [(), (1,)]
    assert data.load_mask(data.samples[1])[0, :3].tolist() == [0, 255, 1]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("c", "catt", "val"), r"labels.csv line 4: image 'c': unknown label 'catt'; did you mean 'cat'\?"),
        (("c", "", "val"), "image 'c': no label; write background"),
        (("d", "cat", "val"), "image 'd': no such file"),
        (("sub/c.webp", "cat", "val"), "without a folder"),
        (("a.jpg", "dog", "val"), "stands in line 2 already"),
        (("c", "cat", "val", "dog"), "line 4: more cells than columns"),
    ],
)
def test_folder_faults_of_a_row(own: Path, row: tuple[str, ...], told: str) -> None:
    table(own, ("a", "cat", "train"), ("b.v2", "dog", "train"), row)
    with pytest.raises(InputError, match=told) as caught:
        load_dataset(OWN, "train", own)
    assert "\n" not in str(caught.value)


def test_folder_image_without_row(own: Path) -> None:
    photograph(own / "images" / "d.jpg")
    with pytest.raises(InputError, match=r"image .*d\.jpg: no row in .*labels\.csv"):
        load_dataset(OWN, "train", own)


def test_folder_two_files_of_one_name(own: Path) -> None:
    photograph(own / "images" / "a.bmp")
    with pytest.raises(InputError, match=r"could be a\.bmp or a\.jpg"):
        load_dataset(OWN, "train", own)


def test_folder_faults_of_the_whole(own: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`split` test: no such split in .*known: all, train, val"):
        load_dataset(OWN, "test", own)
    table(own, ("a", "cat"), header=("file", "label"))
    with pytest.raises(InputError, match=r"labels\.csv: expected the columns image, classes.*, got file, label"):
        load_dataset(OWN, "train", own)
    (own / "labels.csv").unlink()
    with pytest.raises(InputError, match=r"labels\.csv: no such file"):
        load_dataset(OWN, "train", own)
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"folder .*images: no images"):
        load_dataset(OWN, "all", empty)
    with pytest.raises(InputError, match=r"folder .*images: no images"):
        check_dataset(OWN, None, empty)


# --- VOC ------------------------------------------------------------------------------------------------------------


def test_voc_sources_of_labels(devkit: Path) -> None:
    data = load_dataset(VOC, "train", devkit)
    assert {s.id: s.classes for s in data} == {"xml": (1,), "npy": (1, 2), "mask": (2,)}
    assert data.load_mask(data.samples[0])[0, :4].tolist() == [0, 2, 255, 255]
    whole = load_dataset(DataConfig(name="voc", layout="voc"), "train", devkit)
    assert whole.num_classes == 20 and whole.samples[2].classes == (CAT, SHEEP)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_root_may_be_any_of_its_folders(devkit: Path, below: str) -> None:
    assert load_dataset(VOC, "train", devkit / below).samples == load_dataset(VOC, "train", devkit).samples


def test_voc_list_with_paths(devkit: Path) -> None:
    assert [s.id for s in load_dataset(VOC, "train_aug", devkit)] == ["npy"]
    assert list_splits(VOC, devkit) == ("train", "train_aug")


def test_voc_faults(devkit: Path, tmp_path: Path) -> None:
    base = devkit / "VOCdevkit" / "VOC2012"
    with pytest.raises(InputError, match=r"`split` trian: no list .*did you mean 'train'"):
        load_dataset(VOC, "trian", devkit)
    with pytest.raises(InputError, match="no VOC devkit there"):
        load_dataset(VOC, "train", base / "JPEGImages")
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("npy\nnpy\n")
    with pytest.raises(InputError, match="npy stands there 2 times"):
        load_dataset(VOC, "val", devkit)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("absent\n")
    with pytest.raises(InputError, match="image absent has no file"):
        load_dataset(VOC, "val", devkit)
    photograph(base / "JPEGImages" / "absent.jpg")
    with pytest.raises(InputError, match="image absent: no image-level labels"):
        load_dataset(VOC, "val", devkit)
    (base / "Annotations" / "absent.xml").write_text("<annotation><object><name>unicorn</name></object></annotation>")
    with pytest.raises(InputError, match="unknown label 'unicorn'"):
        load_dataset(VOC, "val", devkit)
    (base / "Annotations" / "absent.xml").write_text("<annotation><obj")
    with pytest.raises(InputError, match=r"absent\.xml: not valid XML"):
        load_dataset(VOC, "val", devkit)


class _Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("trap_was_sprung"),))


def test_voc_label_file_runs_no_code(devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(devkit)
    np.save("cls_labels.npy", {"npy": _Trap()}, allow_pickle=True)
    with pytest.raises(InputError, match=r"cls_labels\.npy: not a dictionary of image-level labels"):
        load_dataset(VOC, "train", devkit)
    assert not Path("trap_was_sprung").exists()
    Path("cls_labels.npy").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match=r"cls_labels\.npy"):
        load_dataset(VOC, "train", devkit)
    np.save("cls_labels.npy", {"npy": np.ones(6)}, allow_pickle=True)
    with pytest.raises(InputError, match=r"image npy: expected labels of shape \(20,\), got \(6,\)"):
        load_dataset(VOC, "train", devkit)


# --- descriptions ---------------------------------------------------------------------------------------------------


def test_every_description_that_ships_is_valid() -> None:
    files = sorted((config_root() / "data").glob("*.yaml"))
    assert {"voc12", "voc12_animals", "folder"} <= {load_config(file).name for file in files}


def test_root_argument_then_variable_then_file(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: own\nlayout: folder\nroot: data/own\nroot_env: OWN_ROOT\nclasses: [cat, dog]\n")
    places = {name: tmp_path / name for name in ("data/own", "variable", "argument")}
    for place in places.values():
        place.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data")  # a relative root starts at the file, not at the working directory
    monkeypatch.delenv("OWN_ROOT", raising=False)
    config = load_config(file)
    assert config.find_root() == places["data/own"]
    monkeypatch.setenv("OWN_ROOT", str(places["variable"]))
    assert config.find_root() == places["variable"]
    assert config.find_root(places["argument"]) == places["argument"]
    with pytest.raises(InputError, match=r"^`root` .*nowhere: no such folder"):
        config.find_root(tmp_path / "nowhere")
    monkeypatch.setenv("OWN_ROOT", "/nowhere")
    with pytest.raises(InputError, match=r"^OWN_ROOT /nowhere: no such folder"):
        config.find_root()


def test_no_root_names_the_ways_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOC12_ROOT", raising=False)
    with pytest.raises(InputError, match="`root` PATH, root: in its YAML file, or the environment variable VOC12_ROOT"):
        load_dataset("voc12", "train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nlayout: folder", "needs the list of class names"),
        ("name: x\nlayout: voc\nclasses: [cta]", "no VOC class 'cta': did you mean 'cat'"),
        ("name: x\nlayout: voc\nclasses: [cat, cat]", "expected each name once, got 'cat' twice"),
        ("name: x\nlayout: folder\nclasses: [background, cat]", "'background' cannot be a class name"),
        ("name: x\nlayout: voc\nclass: [cat]", "class: unknown; did you mean 'classes'"),
        ("name: [x", "not valid YAML"),
        ("- name", "expected keys such as name.*got a list"),
    ],
)
def test_faults_of_a_description(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        load_config(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_of_sound_data(own: Path) -> None:
    report = check_dataset(OWN, None, own)
    assert report.problems == ()
    counts = [(s.split, s.images, s.masks, s.unlabelled, s.per_class) for s in report.splits]
    assert counts == [("train", 2, 2, 0, {"cat": 2, "dog": 1}), ("val", 1, 0, 1, {"cat": 0, "dog": 0})]
    assert report.notes == ()
    assert report.lines()[1] == "train: 2 images, 2 masks; images by class: cat 2, dog 1"


def test_check_finds_every_fault_at_once(own: Path) -> None:
    images, masks = own / "images", own / "masks"
    for name in ("zero", "cut", "text", "turned", "unlisted"):
        photograph(images / f"{name}.jpg", 60, 80)
    (images / "zero.jpg").write_bytes(b"")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-500])
    (images / "text.jpg").write_text("not an image")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: upright it is 80 high, 60 wide
    Image.new("RGB", (80, 60)).save(images / "turned.jpg", exif=exif)
    assert image_size(images / "turned.jpg") == (80, 60) == read_image(images / "turned.jpg").size[::-1]
    mask(masks / "turned.png", [0, 2], 80, 60)  # fits the upright image; shows a dog, labelled cat
    mask(masks / "a.png", [0, 1, 7])
    mask(masks / "b.v2.png", [0, 1, 2], 5, 8)
    (masks / "cut.png").write_bytes((masks / "a.png").read_bytes()[:30])
    mask(masks / "zero.png", [0, 255])
    mask(masks / "stray.png", [0, 1])
    rows = [("a", "cat"), ("b.v2", "cat;dog"), ("c", ""), ("zero", "cat"), ("cut", "cat"), ("text", "fish")]
    table(own, *rows, ("turned", "cat"), ("gone", "cat"), ("a.jpg", "cat"), header=("image", "classes"))
    report = check_dataset(OWN, None, own)
    due = [
        r"line 4: image 'c': no label",
        r"line 7: image 'text': unknown label 'fish'",
        r"line 9: image 'gone': no such file",
        r"line 10: image 'a.jpg': stands in line 2",
        r"unlisted.jpg: no row",
        r"a.png: pixel values 7 that no class has",
        r"b.v2.png: 8 x 5 pixels, its image 8 x 6",
        r"zero.jpg: cannot be read (the file is empty)",
        r"cut.jpg: cannot be read",
        r"cut.png: cannot be read",
        r"text.jpg: cannot be read (not an image)",
    ]
    found = list(report.problems)
    for words in due:
        hits = [line for line in found if words in line]
        assert len(hits) == 1, (words, report.problems)
        found.remove(hits[0])
    assert found == []
    notes = "\n".join(report.notes)
    assert "all: 2 of 7 images have no mask" in notes
    assert "1 (stray) in the folder of masks" in notes
    assert "masks of 0 and 255 alone" in notes and "1 (zero)" in notes
    assert "different classes in 2 (zero, turned)" in notes
    assert all("\n" not in line for line in report.lines())
    assert check_dataset(OWN, None, own, workers=2) == report


def test_check_missing_masks_of_a_devkit(devkit: Path) -> None:
    base = devkit / "VOCdevkit" / "VOC2012"
    assert check_dataset(VOC, None, devkit).problems == ()
    (base / "SegmentationClass" / "npy.png").unlink()
    (base / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("npy\nmask\n")
    report = check_dataset(VOC, None, devkit)
    assert report.problems == ("train: image npy has no mask",)
    assert "train_aug: 1 of 2 images has no mask" in report.notes
    for file in (base / "SegmentationClass").iterdir():  # none at all: a data set of labels alone
        file.unlink()
    report = check_dataset(VOC, ["train_aug"], devkit)
    assert [line for line in report.problems if "no mask" in line] == []
    assert report.problems == (
        "image mask: no image-level labels (Annotations, cls_labels.npy or a mask would give them)",
    )


# --- real data ------------------------------------------------------------------------------------------------------


def test_animals(shared: Path) -> None:
    root = shared / "data" / "voc12-animals"
    data = {split: load_dataset("voc12_animals", split, root) for split in ("train", "val", "train_aug")}
    assert {split: len(d) for split, d in data.items()} == {"train": 437, "val": 223, "train_aug": 1050}
    assert sum(s.mask_path is not None for s in data["train_aug"]) == 437
    person = data["train"].class_index("person")
    for split, images in (("train", 79), ("val", 39)):
        shown = [np.unique(data[split].load_mask(s)) for s in data[split]]
        assert sum(person in values for values in shown) == images
        assert data[split].labels()[:, person - 1].sum() == images
        assert set(np.concatenate(shown).tolist()) == {0, 1, 2, 3, 4, 5, 6, 255}
