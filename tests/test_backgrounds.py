"""utils.backgrounds: subjects leave their photograph, take their own colours along, and stay where their alpha is."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.test_transforms import MOVES, NATIVE, OFF, unnormalised
from utils.backgrounds import ComposedPhotograph, CroppedSubject, NewBackgrounds, find_backgrounds
from utils.compositing import Square, Window, cut
from utils.datasets import MattingDataset
from utils.encoding import write_image
from utils.errors import UserError
from utils.pairs import Pair, find_pairs
from utils.sampler import StepSampler
from utils.synthetic import composite as draw
from utils.transforms import Photograph, TrainTransform, View

SIZE = 48
GREEN = (0, 200, 0)
COLOURS = {"red": (210, 20, 20), "blue": (10, 10, 220), "violet": (150, 20, 180)}
RED, BLUE, VIOLET = COLOURS.values()


def picture(colour: tuple[int, int, int], height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def write_subject(root: Path, name: str, colour: tuple[int, int, int], box: tuple[slice, slice]) -> None:
    """A subject of one colour with a soft edge, on green."""
    alpha = np.zeros((SIZE, SIZE), np.float32)
    alpha[box] = 1
    alpha = np.rint(cv2.blur(alpha, (7, 7)) * 255) / 255
    rgb = alpha[..., None] * np.float32(colour) + (1 - alpha[..., None]) * np.float32(GREEN)
    write_image(root / f"train/im/{name}.png", np.rint(rgb).astype(np.uint8))
    write_image(root / f"train/gt/{name}.png", np.rint(alpha * 255).astype(np.uint8))


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    write_subject(tmp_path, "red", RED, (slice(8, 40), slice(6, 22)))
    write_subject(tmp_path, "blue", BLUE, (slice(8, 40), slice(18, 42)))
    write_subject(tmp_path, "violet", VIOLET, (slice(26, 44), slice(4, 44)))
    write_image(tmp_path / "backgrounds/grey.png", picture((128, 128, 128), 70, 90))
    return find_pairs(tmp_path)


def dataset(pairs: list[Pair], augment: dict[str, Any] = OFF, *, extra: float = 0.0, **options: Any) -> MattingDataset:
    folder = pairs[0].image.parents[2] / "backgrounds"
    backgrounds = NewBackgrounds(
        find_backgrounds(folder), **{"background_probability": 1.0, "extra_subject_probability": extra, **options}
    )
    return MattingDataset(pairs, TrainTransform(SIZE, **augment), backgrounds=backgrounds)


def levels(image: torch.Tensor) -> np.ndarray:
    """A normalised image as float (H, W, 3) in 0 ... 255."""
    return (unnormalised(image) * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("solved", [False, True])
def test_nothing_of_the_old_background_is_left(pairs: list[Pair], solved: bool, tmp_path: Path) -> None:
    for pair in pairs:
        write_image(tmp_path / f"solved/{pair.name}.png", picture(COLOURS[pair.name]))
    files = {pair.name: tmp_path / f"solved/{pair.name}.png" for pair in pairs} if solved else None
    sample = dataset(pairs, foregrounds=files)[1]
    assert sample.name == f"red on {tmp_path / 'backgrounds/grey.png'}"
    alpha = sample.alpha[0].numpy()[..., None]
    expected = alpha * np.float32(RED) + (1 - alpha) * 128
    assert np.abs(levels(sample.rgb) - expected).max() < (1.01 if solved else 12)
    photograph = MattingDataset(pairs, TrainTransform(SIZE, **OFF))[1]
    assert torch.equal(sample.alpha, photograph.alpha), "the alpha is the true one"
    naive = alpha * levels(photograph.rgb) + (1 - alpha) * 128
    assert np.abs(naive - expected).max() > 30, "the colours had to be solved"


def test_the_probability_is_meant(pairs: list[Pair]) -> None:
    samples = [dataset(pairs, background_probability=0.3)[epoch, 0] for epoch in range(150)]
    composed = [" on " in sample.name for sample in samples]
    assert 0.18 < np.mean(composed) < 0.42
    photograph = MattingDataset(pairs, TrainTransform(SIZE, **OFF))[0]
    left_alone = samples[composed.index(False)]
    assert torch.equal(left_alone.rgb, photograph.rgb) and left_alone.name == photograph.name


def test_several_subjects_share_one_background(pairs: list[Pair]) -> None:
    single = {pair.name: dataset(pairs)[index] for index, pair in enumerate(pairs)}
    names = set()
    for epoch in range(12):
        sample = dataset(pairs, extra=1.0)[epoch, 0]
        subjects = sample.name.split(" on ")[0].split(" + ")
        assert len(subjects) == 3 and subjects[0] == pairs[0].name not in subjects[1:]
        names.add(tuple(subjects))
        rgb, clear = np.full((SIZE, SIZE, 3), 128.0), np.ones((SIZE, SIZE, 1))
        for name in subjects:  # one in front of the other, the first at the back
            alpha = single[name].alpha[0].numpy()[..., None]
            rgb = alpha * np.float32(COLOURS[name]) + (1 - alpha) * rgb
            clear *= 1 - alpha
        np.testing.assert_allclose(sample.alpha[0].numpy(), 1 - clear[..., 0], atol=1e-5)
        assert np.abs(levels(sample.rgb) - rgb).max() < 25 and np.abs(levels(sample.rgb) - rgb).mean() < 2
    assert len(names) == 4


def test_composites_do_not_depend_on_workers(pairs: list[Pair], tmp_path: Path) -> None:
    for i, colour in enumerate((RED, BLUE, GREEN)):
        write_image(tmp_path / f"backgrounds/{i}.png", np.roll(picture(colour) // (i + 1), i) + np.uint8(i))
    composing = dataset(pairs, MOVES, extra=0.5)
    runs = []
    for num_workers in (0, 2):
        sampler = StepSampler(3, seed=5, batch_size=1)
        loader = torch.utils.data.DataLoader(composing, batch_sampler=sampler, num_workers=num_workers)
        runs.append([(batch.name[0], batch.rgb, batch.alpha) for _ in range(2) for batch in loader])
    for (name, image, alpha), (other_name, other_image, other_alpha) in zip(*runs, strict=True):
        assert name == other_name and torch.equal(image, other_image) and torch.equal(alpha, other_alpha)
    drawn = {composing[epoch, 0].name for epoch in range(20)}
    assert len({name.split(" on ")[1] for name in drawn}) == 4, "all backgrounds are used"


def test_the_background_is_squashed_as_its_subject_is(tmp_path: Path) -> None:
    """Read from a background that tells in red and green where a pixel comes from."""
    write_image(tmp_path / "train/im/wide.png", picture(RED, 40, 80))
    write_image(tmp_path / "train/gt/wide.png", np.zeros((40, 80), np.uint8))
    y, x = np.mgrid[:200, :200]
    write_image(tmp_path / "backgrounds/places.png", np.stack([x, y, 0 * x], axis=2).astype(np.uint8))
    composing = dataset(find_pairs(tmp_path))
    mirrored = []
    for epoch in range(20):
        image = levels(composing[epoch, 0].rgb)
        assert np.array_equal(image, levels(composing[epoch, 0].rgb)), "a function of the key"
        across, down = float(image[0, -1, 0] - image[0, 0, 0]), float(image[-1, 0, 1] - image[0, 0, 1])
        assert abs(across) == pytest.approx(2 * down, rel=0.1)
        mirrored.append(across < 0)
    assert 3 < sum(mirrored) < 17


# ------------------------------------------------------------------------------------------------- any size


def random_subject(rng: np.random.Generator, shape: tuple[int, int], view: View, solved: bool = True) -> CroppedSubject:
    """Noise with a soft alpha that is 0 and 1 in places."""
    alpha = cv2.resize(rng.random((9, 7), np.float32) * 2 - 0.5, shape[::-1]).clip(0, 1)
    return CroppedSubject(Photograph(rng.integers(0, 256, (*shape, 3), np.uint8), alpha, view), solved)


def random_composite(count: int, *, flip: bool) -> ComposedPhotograph:
    rng = np.random.default_rng(count)
    views = [View(Window(3, 5, 60, 90), flip), View(Window(0, 0, 50, 40), False), View(Window(10, 0, 30, 80), True)]
    subjects = [random_subject(rng, (70, 100), view) for view in views[:count]]
    return ComposedPhotograph(
        subjects, rng.integers(0, 256, (90, 130, 3), np.uint8), Window(7, 11, 64, 96), flip, "noise"
    )


@pytest.mark.parametrize("size", [(60, 90), (32, 32), (41, 70), (1, 1)])
@pytest.mark.parametrize(("count", "flip"), [(1, False), (1, True), (2, False), (3, True)])
def test_a_composite_is_made_of_its_parts_at_any_size(size: tuple[int, int], count: int, flip: bool) -> None:
    composite = random_composite(count, flip=flip)
    assert composite.shape == (60, 90), "of the first subject"
    expected = cut(composite.background, composite.window, size).astype(np.float64)
    expected = expected[:, ::-1] if flip else expected
    clear = np.ones(size)
    for subject in composite.subjects:  # one in front of the other, the first at the back
        ((rgb, alpha),) = subject.photograph.render(size)
        expected = alpha[..., None] * rgb.astype(np.float64) + (1 - alpha[..., None]) * expected
        clear *= 1 - alpha
    ((rgb, alpha),) = composite.render(size)
    assert rgb.shape == (*size, 3) and rgb.dtype == np.uint8 and alpha.dtype == np.float32
    assert np.abs(rgb - expected).max() < (0.51 if count == 1 else 1.6)
    np.testing.assert_allclose(alpha, 1 - clear, atol=1e-6)


@pytest.mark.parametrize("size", [(60, 90), (41, 70), (7, 9)])
@pytest.mark.parametrize(("count", "flip"), [(1, False), (2, True), (3, True)])
def test_squares_of_a_composite_are_parts_of_the_whole(size: tuple[int, int], count: int, flip: bool) -> None:
    composite = random_composite(count, flip=flip)
    ((rgb, alpha),) = composite.render(size)
    squares = [Square(0, 0, 6), Square(-4, -9, 20), Square(size[0] - 5, size[1] - 8, 16), Square(3, 1, 4)]
    parts = composite.render(size, squares)
    assert len(parts) == len(squares)
    for (part_rgb, part_alpha), (top, left, side) in zip(parts, squares, strict=True):
        rows, columns = (
            np.arange(start, start + side).clip(0, length - 1) for start, length in zip((top, left), size, strict=True)
        )
        assert np.array_equal(part_rgb, rgb[np.ix_(rows, columns)])
        assert np.array_equal(part_alpha, alpha[np.ix_(rows, columns)])


@pytest.mark.parametrize("solved", [False, True])
def test_nothing_of_the_old_background_is_left_in_the_squares(pairs: list[Pair], solved: bool, tmp_path: Path) -> None:
    for pair in pairs:
        write_image(tmp_path / f"solved/{pair.name}.png", picture(COLOURS[pair.name]))
    files = {pair.name: tmp_path / f"solved/{pair.name}.png" for pair in pairs} if solved else None
    crops = dataset(pairs, {**NATIVE, "native_zoom": (1.0, 1.0), "native_on_edge": 1.0}, foregrounds=files)[1].crops
    alpha = crops.alpha[:, 0].numpy()[..., None]
    assert ((alpha > 0.3) & (alpha < 0.7)).any()
    expected = alpha * np.float32(RED) + (1 - alpha) * 128
    off = np.abs(crops.rgb.permute(0, 2, 3, 1).numpy() - expected)
    assert off.max() < (1.01 if solved else 12), "as of the whole: the margin shows the subject's own colour"


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(60, 90), (41, 70)])
def test_unsolved_squares_with_all_of_the_picture_around_are_parts_of_the_whole(
    size: tuple[int, int], flip: bool
) -> None:
    """However small they are, and beyond the border too."""
    subject = random_subject(np.random.default_rng(1), (60, 90), View(Window(0, 0, 60, 90), flip), solved=False)
    ((whole, whole_alpha),) = subject.layers(size, None)
    squares = [Square(10, 12, 6), Square(-4, -9, 20), Square(size[0] - 5, size[1] - 8, 16), Square(20, 30, 1)]
    for (colours, alpha), (top, left, side) in zip(subject.layers(size, squares), squares, strict=True):
        rows, columns = (
            np.arange(start, start + side).clip(0, length - 1) for start, length in zip((top, left), size, strict=True)
        )
        assert np.array_equal(colours, whole[np.ix_(rows, columns)])
        assert np.array_equal(alpha, whole_alpha[np.ix_(rows, columns)])


@pytest.mark.parametrize("index", [0, 2, 3, 9, 10])  # hair, and those whose colours come from farthest
def test_unsolved_squares_of_an_embedded_composite_are_nearly_parts_of_the_whole(index: int) -> None:
    """They see the rest of the picture to 128 px only; estimated without it they would be off by up to 50 levels."""
    drawn = draw(0, index, height=640, width=800)
    photograph = Photograph(drawn.rgb, drawn.alpha / np.float32(255), View(Window(0, 0, 640, 800), False))
    grey = np.full((10, 10, 3), 128, np.uint8)
    composite = ComposedPhotograph([CroppedSubject(photograph, False)], grey, Window(0, 0, 10, 10), False, "embedded")
    ((rgb, alpha),) = composite.render((640, 800))
    edges = np.argwhere((alpha > 0.2) & (alpha < 0.8))
    middles = edges[np.random.default_rng(index).integers(len(edges), size=12)].tolist()
    squares = [Square(y - 32, x - 32, 64) for y, x in middles if 32 <= y < 608 and 32 <= x < 768]
    assert len(squares) > 5
    differences = [
        np.abs(part.astype(int) - rgb[top : top + side, left : left + side])
        for (part, _), (top, left, side) in zip(composite.render((640, 800), squares), squares, strict=True)
    ]
    assert np.max(differences) <= 10 and np.median([each.max() for each in differences]) <= 4


def test_photographs_and_composites_share_a_batch(pairs: list[Pair], tmp_path: Path) -> None:
    write_image(tmp_path / "train/im/wide.png", picture(RED, 40, 160))
    write_image(tmp_path / "train/gt/wide.png", np.zeros((40, 160), np.uint8))
    mixed = dataset(find_pairs(tmp_path), {**MOVES, "native_crops": 3}, extra=0.5, background_probability=0.5)
    mixed.transform.halo_px = 2
    runs = []
    for num_workers in (0, 2):
        sampler = StepSampler(4, seed=1, batch_size=4)
        loader = torch.utils.data.DataLoader(mixed, batch_sampler=sampler, num_workers=num_workers)
        runs.append([])
        for epoch in range(3):
            sampler.seek(epoch)
            runs[-1] += list(loader)
    for batch, again in zip(*runs, strict=True):
        assert batch.crops.rgb.shape == (4, 3, 3, 28, 28) and batch.crops.alpha.shape == (4, 3, 1, 24, 24)
        assert batch.crops.corner.shape == batch.crops.size.shape == (4, 3, 2) and batch.crops.pooling.shape == (4, 3)
        assert batch.name == again.name
        assert all(torch.equal(one, other) for one, other in zip(batch.crops, again.crops, strict=True))
    made = [" on " in name for batch in runs[0] for name in batch.name]
    assert any(made) and not all(made)
    empty = torch.utils.data.DataLoader(dataset(pairs, OFF), batch_size=2)
    assert all(each.numel() == 0 for each in next(iter(empty)).crops)


def test_a_solved_foreground_of_another_size_is_named(pairs: list[Pair], tmp_path: Path) -> None:
    write_image(tmp_path / "solved/red.png", picture(RED, 10, 10))
    with pytest.raises(UserError, match=r"solved/red\.png is 10x10, but its alpha"):
        dataset(pairs, foregrounds={"red": tmp_path / "solved/red.png"})[1]


def test_backgrounds_are_checked_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--backgrounds .*nowhere: no such folder"):
        find_backgrounds(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images there"):
        find_backgrounds(tmp_path / "empty")
    write_image(tmp_path / "b/park/10.png", picture(GREEN))
    write_image(tmp_path / "b/park/9.png", picture(GREEN))
    assert [path.name for path in find_backgrounds(tmp_path / "b")] == ["9.png", "10.png"]
    (tmp_path / "b/broken.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 3 images cannot be used: .*broken\.jpg"):
        find_backgrounds(tmp_path / "b")
