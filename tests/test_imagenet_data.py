"""ImageNet folders, the ImageNet-segmentation file, and sets of images with one object each."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from wsss.cli import app
from wsss.console import run
from wsss.data import (
    DataConfig,
    foreground_set,
    foreground_truth,
    image_size,
    list_splits,
    load_config,
    load_dataset,
    paired_folders,
    read_image,
)
from wsss.data.check import check_dataset
from wsss.data.wordnet import place_of
from wsss.errors import InputError

PETS = DataConfig(name="pets", layout="imagenet", classes=("dog", "cat", "sea", "sea_lion"))
SEG = DataConfig(name="seg", layout="imagenet_seg")
IMAGENET = [str(index) for index in range(1000)]


def photograph(path: Path, height: int = 6, width: int = 8, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, 2 * value, 3 * value)).save(path)


def mask(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.array(values, np.uint8), (6, 1))).save(path)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    line = str(error.value)
    assert "\n" not in line and len(line) < 400
    return line


# --- imagenet -------------------------------------------------------------------------------------------------------


def shown(root: Path, split: str, config: DataConfig = PETS) -> list[tuple[str, tuple[int, ...], str]]:
    return [(s.id, s.classes, s.image_path.relative_to(root).as_posix()) for s in load_dataset(config, split, root)]


def test_imagenet_as_torchvision_lays_it_out(tmp_path: Path) -> None:
    for name in ("val/cat/b.JPEG", "val/cat/a.jpeg", "val/dog/c.PNG", "train/dog/d.jpg", "train/.hidden/e.jpg"):
        photograph(tmp_path / name)
    (tmp_path / "meta.bin").write_bytes(b"")
    (tmp_path / "val" / "cat" / "notes.txt").write_text("no image")
    assert list_splits(PETS, tmp_path) == ("train", "val")
    due = [("c", (1,), "val/dog/c.PNG"), ("a", (2,), "val/cat/a.jpeg"), ("b", (2,), "val/cat/b.JPEG")]
    assert shown(tmp_path, "val") == due
    assert shown(tmp_path, "train") == [("d", (1,), "train/dog/d.jpg")]
    # the same folder of classes as a root of its own
    assert shown(tmp_path / "val", "all") == [(i, c, path.removeprefix("val/")) for i, c, path in due]
    assert list_splits(PETS, tmp_path / "val") == ("all",)
    data = load_dataset(PETS, "val", tmp_path)
    assert all(sample.mask_path is None for sample in data)
    assert data.load_image(data.samples[0]).size == (8, 6) and data.image_size(data.samples[0]) == (6, 8)


def test_imagenet_flat_folder_of_class_named_files(tmp_path: Path) -> None:
    for name in ("cat_1.jpg", "dog.jpg", "sea_1.jpg", "sea_lion_1.jpg", "sea_lion.PNG"):
        photograph(tmp_path / name)
    found = {i: c for i, c, _ in shown(tmp_path, "all")}
    assert found == {"dog": (1,), "cat_1": (2,), "sea_1": (3,), "sea_lion": (4,), "sea_lion_1": (4,)}
    assert list_splits(PETS, tmp_path) == ("all",)


def test_imagenet_of_a_thousand_classes(tmp_path: Path) -> None:
    """Class index is the place of the WordNet id in the outputs of timm's models, plus one."""
    for name in ("n01440764_tench.jpg", "n02123045_tabby.jpg", "n15075141.jpg"):
        photograph(tmp_path / name)
    config = load_config("imagenet")
    data = load_dataset(config, "all", tmp_path)
    assert [s.classes for s in data] == [(1,), (282,), (1000,)]  # outputs 0, 281 and 999 of ImageNet-1k
    assert data.num_classes == 1000 and data.labels().sum() == 3
    photograph(tmp_path / "n02123046_none.jpg")
    with pytest.raises(InputError, match=r"n02123046_none\.jpg: expected a name <class>_any.*'n02123045'") as caught:
        load_dataset(config, "all", tmp_path)
    assert "(1000 in all)" in one_line(caught)


def test_imagenet_faults(tmp_path: Path) -> None:
    for name in ("val/cat/a.jpg", "val/dgo/b.jpg"):
        photograph(tmp_path / name)
    with pytest.raises(InputError, match=r"folder .*dgo: no class of this name; did you mean 'dog'\?") as caught:
        load_dataset(PETS, "val", tmp_path)
    one_line(caught)
    with pytest.raises(InputError, match=r"`split` vall: no such folder in .*did you mean 'val'"):
        load_dataset(PETS, "vall", tmp_path)
    with pytest.raises(InputError, match=r"`split` all: .* holds the splits val; give one of them"):
        load_dataset(PETS, "all", tmp_path)
    with pytest.raises(InputError, match=r"`split` \.\.: no such folder"):
        load_dataset(PETS, "..", tmp_path / "val")
    (tmp_path / "val" / "dgo").rename(tmp_path / "val" / "dog")
    photograph(tmp_path / "val" / "dog" / "a.png")
    with pytest.raises(InputError, match=r"image .*a\.\w+: has the name of .*a\.\w+; results are kept by name"):
        load_dataset(PETS, "val", tmp_path)
    photograph(tmp_path / "val" / "stray.jpg")
    problems: list[str] = []
    assert len(load_dataset(PETS, "val", tmp_path, problems=problems)) == 2
    assert len(problems) == 2 and "stray.jpg: lies beside the folders of the classes" in problems[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"folder .*empty: no images of the classes dog, cat, sea, sea_lion"):
        load_dataset(PETS, "all", tmp_path / "empty")


def test_check_of_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/cat/a.jpg", "val/cat/a.jpg", "val/dog/b.jpg"):  # the id "a" stands in both splits
        photograph(tmp_path / name)
    assert check_dataset(PETS, None, tmp_path).problems == ()
    (tmp_path / "train" / "cat" / "a.jpg").write_bytes(b"")
    report = check_dataset(PETS, None, tmp_path)
    assert report.problems == (f"image {tmp_path / 'train/cat/a.jpg'}: cannot be read (the file is empty)",)
    assert [(s.split, s.images, s.per_class["cat"]) for s in report.splits] == [("train", 1, 1), ("val", 2, 1)]
    many = PETS.model_copy(update={"classes": (*(f"c{n}" for n in range(300)), "cat", "dog")})
    assert check_dataset(many, ["val"], tmp_path).splits[0].columns == {"classes": 2, "fewest": 1, "most": 1}
    assert run(app, ["data-check", "--data", "imagenet", "--root", str(tmp_path)]) == 2
    assert "no images of the classes n01440764" in capsys.readouterr().err


# --- imagenet_seg ---------------------------------------------------------------------------------------------------


def write_mat(path: Path, images: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """The structure of gtsegs_ijcv.mat: references to images (3, W, H), and to cells of references to masks (W, H)."""
    reference = h5py.ref_dtype
    with h5py.File(path, "w") as file:
        image_refs = file.create_dataset("/value/img", (len(images), 1), reference)
        truth_refs = file.create_dataset("/value/gt", (len(masks), 1), reference)
        for place, image in enumerate(images):
            image_refs[place, 0] = file.create_dataset(f"/#refs#/image{place}", data=image.T).ref
        for place, truth in enumerate(masks):
            cell = file.create_dataset(f"/#refs#/cell{place}", (1, 1), reference)
            cell[0, 0] = file.create_dataset(f"/#refs#/mask{place}", data=truth.T).ref
            truth_refs[place, 0] = cell.ref


@pytest.fixture
def arrays() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images (H, W, 3) and masks (H, W) of three sizes, none square, values of both kinds."""
    generator = np.random.default_rng(0)
    sizes = [(5, 9), (8, 4), (6, 7)]
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    masks = [generator.integers(0, 2, size, dtype=np.uint8) for size in sizes]
    masks[2][0, 0], masks[2][0, 1] = 255, 3  # ignored; a second value of foreground
    return images, masks


@pytest.fixture
def mat(tmp_path: Path, arrays: tuple[list[np.ndarray], list[np.ndarray]]) -> Path:
    write_mat(tmp_path / "gtsegs_ijcv.mat", *arrays)
    return tmp_path / "gtsegs_ijcv.mat"


def test_imagenet_seg(mat: Path, arrays: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    data = load_dataset(SEG, "all", mat)
    assert [s.id for s in data] == ["0001", "0002", "0003"] and data.class_names == ("object",)
    assert load_dataset(SEG, "all", mat.parent).samples == data.samples  # the folder will do
    data = pickle.loads(pickle.dumps(data))  # as it travels to a worker
    for sample, image, truth in zip(data, *arrays, strict=True):
        loaded = data.load_image(sample)
        assert loaded.mode == "RGB" and np.array_equal(np.asarray(loaded), image)
        assert data.image_size(sample) == image.shape[:2]
        due = np.where(truth == 3, 1, truth)
        assert np.array_equal(data.load_mask(sample), due) and data.load_mask(sample).dtype == np.uint8
    subset = foreground_set(data)
    assert subset.samples == data.samples and subset.load_image(subset.samples[0]).size == (9, 5)


def test_imagenet_seg_of_other_types(tmp_path: Path) -> None:
    """MATLAB stores a logical or a double mask as it likes, and a photograph may be grey."""
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_mat(tmp_path / "gtsegs_ijcv.mat", [grey] * 3, [grey > 5, (grey > 5).astype(float), np.full((3, 4), 0.5)])
    data = load_dataset(SEG, "all", tmp_path)
    assert np.array_equal(np.asarray(data.load_image(data.samples[0])), np.stack([grey] * 3, axis=-1))
    assert data.image_size(data.samples[0]) == (3, 4)
    for sample in data.samples[:2]:
        assert np.array_equal(data.load_mask(sample), grey > 5)
    with pytest.raises(InputError, match=r"^[^:]*\.mat: mask 0003: expected whole numbers 0 to 255 .*got float64"):
        data.load_mask(data.samples[2])


def test_imagenet_seg_faults(mat: Path, tmp_path: Path, arrays: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    with pytest.raises(InputError, match=r"`split` val: expected all, as gtsegs_ijcv\.mat has no splits"):
        load_dataset(SEG, "val", mat)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"root .*empty: no gtsegs_ijcv\.mat there"):
        load_dataset(SEG, "all", tmp_path / "empty")
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="as a data set of layout imagenet_seg"):
            read(mat)
    old = tmp_path / "old.mat"
    old.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match=r"old\.mat: not gtsegs_ijcv\.mat \(MATLAB v7\.3") as caught:
        load_dataset(SEG, "all", old)
    one_line(caught)
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["/value/img"] = np.zeros((2, 1))
    with pytest.raises(InputError, match=r"other\.mat: not gtsegs_ijcv"):
        load_dataset(SEG, "all", tmp_path / "other.mat")
    with h5py.File(tmp_path / "other.mat", "a") as file:
        file["/value/gt"] = np.zeros((3, 1))
    with pytest.raises(InputError, match=r"got /value/img \(2, 1\) and /value/gt \(3, 1\)"):
        load_dataset(SEG, "all", tmp_path / "other.mat")
    with h5py.File(mat, "a") as file:  # a reference that leads nowhere
        file["/value/gt"][1, 0] = h5py.Reference()
    data = load_dataset(SEG, "all", mat)
    with pytest.raises(InputError, match=r"gtsegs_ijcv\.mat: not gtsegs_ijcv\.mat .* or damaged"):
        data.load_mask(data.samples[1])
    assert np.array_equal(data.load_mask(data.samples[0]), arrays[1][0])


def test_check_of_imagenet_seg(mat: Path, tmp_path: Path, arrays: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    report = check_dataset(SEG, None, mat)
    assert report.problems == () and report.notes == ()
    assert [(s.split, s.images, s.masks, s.per_class) for s in report.splits] == [("all", 3, 3, {"object": 3})]
    assert check_dataset(SEG, None, mat, workers=2) == report
    images, masks = arrays
    (tmp_path / "bad").mkdir()
    write_mat(tmp_path / "bad" / "gtsegs_ijcv.mat", images, [masks[0].T, masks[1], np.zeros_like(masks[2])])
    report = check_dataset(SEG, None, tmp_path / "bad")
    assert len(report.problems) == 1 and "5 x 9 pixels, its image 9 x 5" in report.problems[0]
    assert report.notes == ("all: labels and mask name different classes in 1 (0003)",)


# --- description ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("layout: imagenet\nmasks: here", "masks: layout 'imagenet' has no folder of masks"),
        ("layout: imagenet_seg\nclasses: [cat]", "one class, 'object'"),
        ("layout: imagenet_seg\nmask_values: [cat]", "mask_values: layout 'imagenet_seg'"),
        ("layout: imagenet\nclasses: [cat, cat]", "expected each name once, got 'cat' twice"),
        ("layout: imagenet\nclasses: []", "classes: expected 1 to 65534 names, got 0"),
        ("layout: imagenets", "layout: 'imagenets' is unknown: did you mean 'imagenet'"),
    ],
)
def test_description_faults(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(f"name: x\n{text}\n")
    with pytest.raises(InputError, match=told) as caught:
        load_config(file)
    assert str(file) in one_line(caught)


def test_more_classes_than_a_mask_can_hold_only_without_masks(tmp_path: Path) -> None:
    names = tuple(f"c{number}" for number in range(1000))
    assert DataConfig(name="x", layout="imagenet", classes=names).mask_table()[1:].min() == 255
    with pytest.raises(ValueError, match="mask_values: expected 1 to 254 names, got 1000"):
        DataConfig(name="x", layout="folder", classes=names, mask_values=names)
    with pytest.raises(ValueError, match="classes: expected 1 to 65534 names, got 65535"):
        DataConfig(name="x", layout="imagenet", classes=tuple(map(str, range(65535))))
    own = DataConfig(name="x", layout="folder", classes=names)
    photograph(tmp_path / "images" / "a.png")
    (tmp_path / "labels.csv").write_text("image,classes\na,c999\n")
    data = load_dataset(own, "all", tmp_path)
    assert data.samples[0].classes == (1000,) and data.labels()[0].tolist() == [0] * 999 + [1]
    with pytest.raises(InputError, match="data set x: expected at most 254 classes in masks, got 1000"):
        data.check_maskable()
    mask(tmp_path / "masks" / "a.png", [0, 1])
    with pytest.raises(InputError, match="expected masks of at most 254 classes, got 1000"):
        load_dataset(own, "all", tmp_path)


def test_root_that_is_a_file(mat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config("imagenet_seg").find_root(mat) == mat
    monkeypatch.setenv("IMAGENET_SEG_ROOT", str(mat))
    assert load_config("imagenet_seg").find_root() == mat
    with pytest.raises(InputError, match="no such folder"):
        PETS.find_root(mat)


# --- foreground -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Images of every kind: with and without mask, of no, one and two classes."""
    rows = {"a": "cat", "b": "dog", "c": "cat;dog", "d": "background", "e": "dog"}
    for name in rows:
        photograph(tmp_path / "images" / f"{name}.jpg")
        if name != "e":
            mask(tmp_path / "masks" / f"{name}.png", [0, 1, 2, 255, 0, 0, 0, 0])
    lines = [f"{name},{classes}" for name, classes in rows.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["image,classes", *lines]))
    return tmp_path


def test_foreground_set(own: Path) -> None:
    data = load_dataset(DataConfig(name="own", layout="folder", classes=("cat", "dog", "cow")), "all", own)
    assert [s.id for s in foreground_set(data)] == ["a", "b"]
    assert [s.id for s in foreground_set(data, ["dog"])] == ["b"]
    assert foreground_set(data, ["dog"]).class_names == data.class_names
    with pytest.raises(InputError, match=r"class 'dgo' is not in data set own: did you mean 'dog'"):
        foreground_set(data, ["dgo"])
    with pytest.raises(InputError, match=r"no image with a mask shows one class only, of the classes cow \(5 "):
        foreground_set(data, ["cow"])


def test_foreground_truth() -> None:
    stored = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    truth = foreground_truth(stored, 2)
    assert truth.tolist() == [[0, 255, 1], [255, 1, 0]] and truth.dtype == np.uint8


def test_paired_folders(own: Path) -> None:
    photograph(own / "masks" / "sub" / "x.png")  # a folder beside the masks is nobody's mask
    mask(own / "masks" / "e.PNG", [0, 9, 254, 255, 0, 0, 0, 0])
    data = paired_folders(own / "images", own / "masks")
    assert (data.name, data.split, data.class_names) == ("images", "all", ("object",))
    assert [(s.id, s.classes) for s in data] == [(name, (1,)) for name in "abcde"]
    assert data.load_mask(data.samples[0])[0].tolist() == [0, 1, 1, 255, 0, 0, 0, 0]
    assert data.load_mask(data.samples[4])[0].tolist() == [0, 1, 1, 255, 0, 0, 0, 0]
    assert data.load_image(data.samples[0]).size == (8, 6)
    assert foreground_set(data).samples == data.samples


def test_paired_folders_faults(own: Path) -> None:
    images, masks = own / "images", own / "masks"
    with pytest.raises(InputError, match=r"image .*e\.jpg: no mask .*e\.png"):
        paired_folders(images, masks)
    (images / "e.jpg").unlink()
    mask(masks / "z.png", [0])
    with pytest.raises(InputError, match=r"mask .*z\.png: no image of that name in .*images"):
        paired_folders(images, masks)
    (masks / "z.png").unlink()
    photograph(images / "a.png")
    with pytest.raises(InputError, match=r"image .*a\.jpg: a\.png has the same name"):
        paired_folders(images, masks)
    with pytest.raises(InputError, match=r"folder .*gone: no such folder \(masks\)"):
        paired_folders(images, own / "gone")
    with pytest.raises(InputError, match=r"folder .*masks.sub: no such folder"):
        paired_folders(masks / "sub", masks)


# --- real data ------------------------------------------------------------------------------------------------------


def test_samples_of_imagenet(shared: Path) -> None:
    root = shared / "data" / "imagenet-samples"
    data = load_dataset("imagenet", "all", root)
    assert len(data) == 250 and len({s.classes for s in data}) == 250
    assert all(data.class_names[s.classes[0] - 1] == s.id.split("_")[0] for s in data)
    assert min(data.load_image(data.samples[0]).size) == 256


def test_animals_of_one_class(shared: Path) -> None:
    """The set that docs/protocols.md gives figures for."""
    animals = ("cat", "cow", "dog", "horse", "sheep")
    data = foreground_set(load_dataset("voc12", "val", shared / "data" / "voc12-animals"), animals)
    assert len(data) == 165 and {data.class_names[s.classes[0] - 1] for s in data} == set(animals)
    for sample in data.samples[:20]:
        stored = data.load_mask(sample)
        truth = foreground_truth(stored, sample.classes[0])
        assert np.array_equal(truth == 255, stored == 255) and (truth == 1).any()  # nothing but the border is ignored


# Classes of an ImageNet head by their words


@pytest.mark.parametrize(
    ("name", "place"),
    [("281", 281), ("tabby cat", 281), ("Tabby_Cat", 281), ("tabby", 281), ("golden  retriever", 207), ("0", 0)],
)
def test_classes_have_indices_and_names(name: str, place: int) -> None:
    assert place_of(name, IMAGENET) == place


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cat", r"expected an index, 0 to 999, or a name such as .*'tabby cat' \(281\)"),
        ("golden retreiver", r"such as 'golden retriever' \(207\)$"),
        ("crane", r"^class 'crane' is 2 classes of ImageNet: expected an index, 134 or 517$"),
        (
            "1000",
            r"^class '1000' is none of ImageNet's 1,000: expected an index, .* a name, such as 'tabby cat'$",
        ),
    ],
)
def test_unknown_names_are_told_with_near_ones(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        place_of(name, IMAGENET)
    assert len(str(caught.value)) < 250


def test_words_are_of_imagenet_heads_alone() -> None:
    assert place_of("dog", ["cat", "dog"]) == 1
    with pytest.raises(InputError, match=r"class 'tabby cat' is unknown to the classifier: known: cat, dog"):
        place_of("tabby cat", ["cat", "dog"])
    many = [f"class {number:03}" for number in range(500)]
    with pytest.raises(InputError, match=r"did you mean 'class 007'\? known: class 000, .*class 039 and 460 more$"):
        place_of("clas 007", many)
