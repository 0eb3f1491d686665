"""Examples are functions of their key, image and mask move together, a resumed training has the same batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnnseg.examples import FILL, Examples, StepBatches, masked_places
from cnnseg.settings import TrainConfig
from wsss.augment import RandomScale, apply_seeded, random_crops
from wsss.data import Dataset, load_dataset
from wsss.errors import InputError
from wsss.store import write_mask

CONFIG = TrainConfig(crop=48, batch_size=4, steps=12, seed=3)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Seven dark images with a bright block: cat in even ones, dog in odd ones, cat;dog in the sixth; four masks."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = ["image,classes"]
    for number in range(7):
        image = rng.integers(0, 60, (60, 80, 3), np.uint8)
        mask = np.zeros((60, 80), np.uint8)
        image[10:40, 10:40] += 180
        mask[10:40, 10:40] = 1 + number % 2
        if number == 6:
            image[45:, 60:] += 180
            mask[45:, 60:] = 2
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        if number in (1, 2, 4, 6):
            write_mask(tmp_path / "masks", str(number), mask)
        rows.append(f"{number}.png,{('cat', 'dog')[number % 2] if number < 6 else 'cat;dog'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "data.yaml").write_text("name: small\nlayout: folder\nroot: .\nclasses: [cat, dog]\n")
    return load_dataset(tmp_path / "data.yaml", "all")


def masks_of(dataset: Dataset, *numbers: int):
    return tuple(dataset.samples[number] for number in numbers)


def test_examples_depend_on_their_key_alone(dataset: Dataset) -> None:
    examples = Examples(dataset, masks_of(dataset, 1, 4), CONFIG)
    keys = [(0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 2, 3)]
    forwards = [examples[key] for key in keys]
    torch.manual_seed(123)
    state = torch.get_rng_state()
    backwards = [examples[key] for key in reversed(keys)][::-1]
    assert torch.equal(torch.get_rng_state(), state)  # and leave the global generator alone
    for one, other in zip(forwards, backwards, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    images = [image for image, _, _ in forwards]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    other_seed = Examples(dataset, masks_of(dataset, 1, 4), CONFIG.model_copy(update={"seed": 4}))
    assert not torch.equal(other_seed[0, 0, 1][0], images[0])
    for image, mask, labels in forwards:
        assert type(image) is type(mask) is type(labels) is torch.Tensor
        assert image.shape == (3, 48, 48) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
        assert mask.shape == (48, 48) and mask.dtype == torch.uint8 and labels.dtype == torch.float32


def inner(region: torch.Tensor) -> torch.Tensor:
    """Without its border of one pixel, where scaling mixes the colours of both sides."""
    return -torch.nn.functional.max_pool2d(-region[None].float(), 3, stride=1, padding=1)[0] > 0


def test_image_and_mask_move_together(dataset: Dataset) -> None:
    """Blocks are bright and ground is dark at every scale, mirrored or not; the frame has its colour and no mask."""
    config = CONFIG.model_copy(update={"crop": 96, "colour_jitter": 0.0})
    examples = Examples(dataset, masks_of(dataset, 2, 6), config)
    frames = 0
    for step in range(15):
        image, mask, _ = examples[step, 0, 6]
        inside, ground = inner((mask == 1) | (mask == 2)), inner(mask == 0)
        assert inside.any() and image[:, inside].min() > 0.5 > 0.4 > image[:, ground].max()
        frame = ((image * 255).round() == torch.tensor(FILL).view(3, 1, 1)).all(0)
        assert torch.equal(frame, mask == 255)
        frames += bool(frame.any())
        plain, nothing, _ = Examples(dataset, (), config)[step, 0, 6]
        assert torch.equal(plain, image) and (nothing == 255).all()  # a mask that goes along changes no draw
    assert frames


def test_the_frame_keeps_its_colour(dataset: Dataset) -> None:
    """Or a network would be shown frames of all colours, which have relevance."""
    examples = Examples(dataset, masks_of(dataset, 2, 6), CONFIG.model_copy(update={"crop": 128}))
    fill = torch.tensor(FILL).view(3, 1) / 255
    for step in range(8):
        image, mask, _ = examples[step, 0, 6]
        assert (mask == 255).any() and torch.allclose(image[:, mask == 255], fill.expand(-1, (mask == 255).sum()))
        plain = Examples(dataset, (), CONFIG.model_copy(update={"crop": 128}))[step, 0, 6][0]
        assert torch.equal(plain, image)


@pytest.mark.parametrize("colours_first", [False, True])
def test_order_of_the_changes(dataset: Dataset, colours_first: bool) -> None:
    """Cut first, as affinity's trainings do: their stream of random numbers is what it was."""
    image = tv_tensors.Image(np.asarray(dataset.load_image(dataset.samples[0])).transpose(2, 0, 1).copy())
    options = {"scale_min": 0.5, "scale_max": 2.0, "flip": True, "colour_jitter": 0.3, "fill": 128}
    more = {"colours_first": True} if colours_first else {}
    cut = [v2.RandomCrop(48, pad_if_needed=True, fill=128), v2.RandomHorizontalFlip()]
    colours = v2.ColorJitter(0.3, 0.3, 0.3, 0.1)
    steps = [colours, *cut] if colours_first else [*cut, colours]
    written_out = v2.Compose([RandomScale(0.5, 2.0), *steps, v2.ToDtype(torch.float32, scale=True)])
    for seed in range(4):
        found, expected = (apply_seeded(t, seed, image)[0] for t in (random_crops(48, **options, **more), written_out))
        assert torch.equal(found, expected)


def test_the_largest_square_resized(dataset: Dataset) -> None:
    """Written out with slices: image and mask from the same place, which is another each time, all of them possible."""
    config = CONFIG.model_copy(update={"squares": True, "crop": 32, "flip": False, "colour_jitter": 0.0})
    examples, sample = Examples(dataset, masks_of(dataset, 6), config), dataset.samples[6]
    pixels, truth = np.asarray(dataset.load_image(sample)), dataset.load_mask(sample)
    height, width = truth.shape
    short = min(height, width)
    assert height != width
    places = {}
    for place in range(abs(height - width) + 1):
        top, left = (place, 0) if height > width else (0, place)
        square = torch.from_numpy(pixels[top : top + short, left : left + short].copy()).permute(2, 0, 1)
        small = v2.functional.resize(square, [32, 32], antialias=True).float() / 255
        nearest = np.floor(np.arange(32) * short / 32).astype(int)
        places[place] = small, truth[top : top + short, left : left + short][nearest][:, nearest]
    seen = set()
    for step in range(60):
        image, mask, _ = examples[step, 0, 6]
        errors = {p: (image - small).abs().max() for p, (small, cut) in places.items() if np.array_equal(cut, mask)}
        place = min(errors, key=errors.__getitem__)
        assert errors[place] < 2 / 255
        seen.add(place)
    assert len(seen) > 1 and max(seen) > abs(height - width) / 2


def test_labels_are_what_a_masked_crop_shows(dataset: Dataset) -> None:
    """Of an image without a mask in the budget, what the data set says, though it has a mask on disk."""
    examples = Examples(dataset, masks_of(dataset, 6), CONFIG.model_copy(update={"scale_min": 1.5}))
    seen = Counter()
    for step in range(40):
        _, mask, labels = examples[step, 0, 6]
        pixels = [(mask == c).sum().item() for c in (1, 2)]
        assert labels.tolist() == [float(count >= 48 * 48 / 1000) for count in pixels]
        seen[tuple(labels.tolist())] += 1
        assert examples[step, 1, 4][2].tolist() == [1, 0] and (examples[step, 1, 4][1] == 255).all()
        assert examples[step, 1, 5][2].tolist() == [0, 1]
    assert len(seen) >= 2  # some crops cut a class away
    sliver = torch.zeros(48, 48, dtype=torch.uint8)
    sliver[0, :2] = 1
    sliver[1, :3] = 2
    assert examples.crop_labels(sliver).tolist() == [0, 1]
    assert examples.crop_labels(torch.full((48, 48), 255, dtype=torch.uint8)).tolist() == [0, 0]


def batches_of(dataset: Dataset, masked: tuple, places: int, start: int = 0, **options: int) -> list[list[tuple]]:
    sampler = StepBatches(dataset, masked, CONFIG.model_copy(update=options), places, start)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize("places", [0, 1, 3, 4])
def test_streams_pass_through_all_images(dataset: Dataset, places: int) -> None:
    masked = masks_of(dataset, 6, 1, 4)
    batches = batches_of(dataset, masked, places)
    used: dict[bool, list[int]] = {True: [], False: []}
    for step, batch in enumerate(batches):
        assert [key[:2] for key in batch] == [(step, place) for place in range(4)]
        for _, place, index in batch:
            used[place < places].append(index)
    for images, stream in (([1, 4, 6], used[True]), ([0, 2, 3, 5], used[False])):
        whole = len(stream) // len(images) * len(images)
        for first in range(0, whole, len(images)):
            assert sorted(stream[first : first + len(images)]) == images  # no gap, no image twice in a pass
        assert set(stream) <= set(images)
        orders = {tuple(stream[first : first + len(images)]) for first in range(0, whole, len(images))}
        assert not stream or len(orders) > 1


def test_batches_are_a_function_of_seed_and_step(dataset: Dataset) -> None:
    masked = masks_of(dataset, 1, 2, 4)
    whole = batches_of(dataset, masked, 2)
    assert batches_of(dataset, masked, 2) == whole != batches_of(dataset, masked, 2, seed=4)
    assert batches_of(dataset, tuple(reversed(masked)), 2) == whole
    for start in (1, 5, 11, 12, 15):
        assert batches_of(dataset, masked, 2, start) == whole[start:]
    assert batches_of(dataset, masked, 2, steps=7) == whole[:7]


def test_masks_for_all_images_serve_both_streams(dataset: Dataset) -> None:
    every = Dataset("small", "all", dataset.root, dataset.class_names, masks_of(dataset, 1, 2), dataset.mask_values)
    batches = batches_of(every, every.samples, 2)
    assert {index for batch in batches for _, _, index in batch[2:]} == {0, 1}
    assert len(batches[0]) == 4


def test_share_of_masks(dataset: Dataset) -> None:
    masked = masks_of(dataset, 1, 2)
    assert masked_places(TrainConfig(), masked, classifies=True) == 5  # the paper's half of 10
    assert masked_places(TrainConfig(), masked, classifies=False) == 10
    assert masked_places(TrainConfig(), (), classifies=True) == 0
    assert masked_places(TrainConfig(mask_share=0.01), masked, classifies=True) == 1
    assert masked_places(TrainConfig(mask_share=1), masked, classifies=True) == 10


def test_workers_read_the_same(dataset: Dataset) -> None:
    masked = masks_of(dataset, 1, 4)
    config = CONFIG.model_copy(update={"steps": 2})
    examples = Examples(dataset, masked, config)
    sampler = StepBatches(dataset, masked, config, 2)
    loader = DataLoader(examples, batch_sampler=sampler, num_workers=1, multiprocessing_context="forkserver")
    for keys, batch in zip(sampler, loader, strict=True):
        for column, stacked in enumerate(batch):
            assert torch.equal(stacked, torch.stack([examples[key][column] for key in keys]))


def test_faults_are_told(dataset: Dataset) -> None:
    stray = Examples(dataset, masks_of(dataset, 1), CONFIG)
    write_mask(dataset.samples[1].mask_path.parent, "1", np.zeros((60, 70), np.uint8))
    with pytest.raises(InputError, match=r"mask .*1\.png: 70 x 60 pixels, its image 80 x 60"):
        stray[0, 0, 1]
    with pytest.raises(InputError, match="small/all: image 3 has no mask"):
        Examples(dataset, masks_of(dataset, 3), CONFIG)
    fewer = Dataset("small", "all", dataset.root, dataset.class_names, dataset.samples[:2], dataset.mask_values)
    with pytest.raises(InputError, match="small/all: image 4 is not in it"):
        StepBatches(fewer, masks_of(dataset, 4), CONFIG, 1)
    with pytest.raises(InputError, match="small/all: no masks to train on"):
        StepBatches(dataset, (), CONFIG, 2)
    empty = Dataset("small", "all", dataset.root, dataset.class_names, (), dataset.mask_values)
    with pytest.raises(InputError, match="small/all: no images to train on"):
        StepBatches(empty, (), CONFIG, 0)


def test_scales_are_uniform_in_their_logarithm() -> None:
    scale, image = RandomScale(0.5, 2.0), torch.zeros(1, 64, 64)
    factors = [apply_seeded(scale, seed, image)[0].shape[-1] / 64 for seed in range(300)]
    assert 0.5 <= min(factors) < 0.55 and 1.85 < max(factors) <= 2
    assert abs(np.mean(np.log2(factors))) < 0.1
