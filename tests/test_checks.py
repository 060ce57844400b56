"""The preflight: every fault is found, named once, with a remedy; what is sound is never accused."""

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tools import check_data
from utils import checks, duplicates, inspection
from utils.checks import DataCheck, cache_file, check_dataset, list_dataset, require_usable
from utils.contact_sheet import AMBER, RED
from utils.duplicates import Signature, find_duplicates
from utils.encoding import write_image
from utils.errors import UserError
from utils.images import quantise, read_alpha, read_rgb
from utils.inspection import looks_inverted
from utils.pairs import Pair, find_pairs
from utils.problems import Problem, write_problems

SHARED = Path(__file__).parents[2] / "shared" / "data"
HEIGHT, WIDTH = 48, 64
MAX_PIXELS = 1_000_000


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth colour picture, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def disc(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A matte uint8 (H, W) with a soft edge, opaque in the centre."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y - height / 2) / height, (x - width / 2) / width)
    return quantise(np.clip((0.35 - distance) / 0.05, 0, 1))


def write_split(folder: Path, names: str, seed: int = 0) -> None:
    for number, name in enumerate(names.split()):
        write_image(folder / "im" / f"{name}.png", picture(seed + number))
        write_image(folder / "gt" / f"{name}.png", disc())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound dataset: train with a, b and c, val with v and w."""
    write_split(tmp_path / "data" / "train", "a b c")
    write_split(tmp_path / "data" / "val", "v w", seed=50)
    return tmp_path / "data"


def check(root: Path, dataset: str = "custom", splits: tuple[str, ...] = (), **options: object) -> DataCheck:
    return check_dataset(list_dataset(root, dataset, splits), **{"max_pixels": MAX_PIXELS, "num_workers": 2, **options})


def found(result: DataCheck) -> list[tuple[str, str]]:
    return [(f"{problem.split}/{problem.name}", problem.kind) for problem in result.problems]


def names(result: DataCheck) -> str:
    return " ".join(f"{split}:{''.join(pair.name for pair in pairs)}" for split, pairs in result.pairs.items())


def test_a_sound_dataset_has_no_problems(root: Path) -> None:
    result = check(root)
    assert result.problems == [] and names(result) == "train:abc val:vw"
    assert result.pairs["train"] == find_pairs(root)
    assert require_usable(result, "error") == require_usable(result, "skip") == result.pairs
    assert "0 errors\n0 warnings" in result.summary()


# ------------------------------------------------------------------------------------------------- single files


def cut(path: Path, keep: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def jpeg(image: Path, quality: int = 95, **options: object) -> Path:
    Image.open(image).save(image.with_suffix(".jpg"), quality=quality, **options)
    image.unlink()
    return image.with_suffix(".jpg")


def wrong_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)


def sideways(image: Path, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(image).save(image, exif=exif)


def both(image: Path, alpha: Path, height: int, width: int) -> None:
    write_image(image, picture(1, height, width))
    write_image(alpha, disc(height, width))


# What is done to train/b, the kind it is, whether it is the image's or the alpha's fault.
FAULTS: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "zero bytes": (lambda im, gt: im.write_bytes(b""), "empty", "im"),
    "alpha of zero bytes": (lambda im, gt: gt.write_bytes(b""), "empty", "gt"),
    "text": (lambda im, gt: im.write_text("a letter"), "not-an-image", "im"),
    "cut JPEG": (lambda im, gt: cut(jpeg(im)), "truncated", "im"),
    "cut PNG": (lambda im, gt: cut(im), "truncated", "im"),
    "cut alpha": (lambda im, gt: cut(gt), "truncated", "gt"),
    "wrong checksum": (lambda im, gt: wrong_checksum(im), "damaged", "im"),
    "dangling link": (lambda im, gt: (im.unlink(), im.symlink_to("nowhere.png")), "unreadable", "im"),
    "link to itself": (lambda im, gt: (gt.unlink(), gt.symlink_to(gt.name)), "unreadable", "gt"),
    "bomb": (lambda im, gt: Image.new("1", (2000, 1000)).save(im), "too-large", "im"),
    "bomb for an alpha": (lambda im, gt: Image.new("1", (2000, 1000)).save(gt), "too-large", "gt"),
    "photograph for an alpha": (lambda im, gt: write_image(gt, picture(7)), "colour-alpha", "gt"),
    "float photograph": (
        lambda im, gt: (im.unlink(), Image.fromarray(disc() / np.float32(255)).save(im.with_suffix(".tif"))),
        "pixel-format",
        "im",
    ),
    "float alpha of 0 to 255": (
        lambda im, gt: (gt.unlink(), Image.fromarray(disc().astype(np.float32)).save(gt.with_suffix(".tif"))),
        "pixel-format",
        "gt",
    ),
    "32-bit integers": (
        lambda im, gt: (gt.unlink(), Image.fromarray(disc().astype(np.int32)).save(gt.with_suffix(".tif"))),
        "pixel-format",
        "gt",
    ),
    "size": (lambda im, gt: write_image(gt, disc(HEIGHT, WIDTH - 1)), "size-differs", "gt"),
    "EXIF on the image only": (lambda im, gt: sideways(im), "size-differs", "gt"),
    "0 and 1 in 8 bits": (lambda im, gt: write_image(gt, (disc() > 127).astype(np.uint8)), "stored-0-1", "gt"),
    "8 bits in 16": (lambda im, gt: write_image(gt, disc().astype(np.uint16)), "stored-0-1", "gt"),
    "all 0": (lambda im, gt: write_image(gt, np.zeros_like(disc())), "constant", "gt"),
    "all 1": (lambda im, gt: write_image(gt, np.full_like(disc(), 255)), "constant", "gt"),
    "all 0.5": (lambda im, gt: write_image(gt, np.full_like(disc(), 128)), "constant", "gt"),
    "inverted": (lambda im, gt: write_image(gt, 255 - disc()), "inverted", "gt"),
    "faint": (lambda im, gt: write_image(gt, disc() // 3), "faint", "gt"),
    "alpha as JPEG": (lambda im, gt: jpeg(gt), "alpha-jpeg", "gt"),
    "upside down": (lambda im, gt: sideways(im, 3), "exif", "im"),
    "mirrored": (lambda im, gt: sideways(im, 2), "exif", "im"),
    "square and sideways": (lambda im, gt: (both(im, gt, 64, 64), sideways(im)), "exif", "im"),
    "image of another type": (lambda im, gt: im.rename(im.with_suffix(".HEIC")), "other-type", "im"),
    "alpha of another type": (lambda im, gt: gt.rename(gt.with_suffix(".gif")), "other-type", "gt"),
    "both of another type": (lambda im, gt: (im.unlink(), gt.rename(gt.with_suffix(".psd"))), "other-type", "gt"),
    "small": (lambda im, gt: both(im, gt, 31, 40), "small", "im"),
    "elongated": (lambda im, gt: both(im, gt, 33, 265), "elongated", "im"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_and_the_file_named(fault: str, root: Path) -> None:
    harm, kind, folder = FAULTS[fault]
    harm(root / "train/im/b.png", root / "train/gt/b.png")
    result = check(root)
    assert found(result) == [("train/b", kind)]
    problem = result.problems[0]
    assert problem.file.parent == root / "train" / folder and problem.file.stem == "b"
    assert str(problem.file) in problem.message and "\n" not in problem.message
    assert names(result) == ("train:ac val:vw" if kind in checks.ERRORS else "train:abc val:vw")
    assert kind in result.summary() and "train/b" in result.summary()


SOUND: dict[str, Callable[[Path, Path], object]] = {
    "16 bits": lambda im, gt: write_image(gt, disc().astype(np.uint16) * 257),
    "palette": lambda im, gt: Image.fromarray(disc()).convert("P").save(gt),
    "grey with alpha": lambda im, gt: Image.merge("LA", [Image.fromarray(disc())] * 2).save(gt),
    "cut-out": lambda im, gt: write_image(gt, np.dstack([picture(9), disc()])),
    "1 bit": lambda im, gt: Image.fromarray(disc()).convert("1").save(gt),
    "CMYK": lambda im, gt: Image.open(im).convert("CMYK").save(im, "JPEG"),
    "grey photograph": lambda im, gt: Image.open(im).convert("L").save(im),
    "sideways and upright": lambda im, gt: (
        sideways(im),
        Image.fromarray(disc()).transpose(Image.Transpose.ROTATE_270).save(gt),
    ),
    "upright and sideways": lambda im, gt: (
        sideways(im),
        write_image(gt, disc(WIDTH, HEIGHT)),
    ),
    "both upside down": lambda im, gt: (sideways(im, 3), sideways(gt, 3)),
    "jfif": lambda im, gt: jpeg(im).rename(im.with_suffix(".jfif")),
    "other files beside": lambda im, gt: [
        path.write_bytes(b"x")
        for path in (im.with_name(".b.heic"), im.with_suffix(".txt"), gt.with_suffix(".json"), gt.with_suffix(".psd"))
    ],
    "least size": lambda im, gt: both(im, gt, 32, 256),
    "half opaque": lambda im, gt: write_image(gt, disc() // 2 + disc() % 2),
}


@pytest.mark.parametrize("form", SOUND)
def test_unusual_but_sound_files_are_not_accused(form: str, root: Path) -> None:
    SOUND[form](root / "train/im/b.png", root / "train/gt/b.png")
    result = check(root)
    assert found(result) == [] and names(result) == "train:abc val:vw"


def test_a_file_of_another_type_is_named_with_its_extension_and_its_partner_is_not_accused(root: Path) -> None:
    (root / "train/im/b.png").rename(root / "train/im/b.heic")
    (root / "train/gt/c.png").rename(root / "train/gt/c.gif")
    (root / "val/im/sub").mkdir()
    for path in ("val/im/sub/x.avif", "val/gt/sub.tga"):
        (root / path).write_bytes(b"x")
    result = check(root)
    assert found(result) == [(name, "other-type") for name in ("train/b", "train/c", "val/sub", "val/sub/x")]
    assert "other-type   4: train/b.heic, train/c.gif, val/sub.tga, 1 more" in result.summary()
    assert all("convert to PNG or JPEG" in problem.message for problem in result.problems)
    assert names(result) == "train:a val:vw"


def test_likely_causes_are_told(root: Path) -> None:
    sideways(root / "train/im/a.png")
    write_image(root / "train/gt/b.png", disc().astype(np.uint16))
    write_image(root / "train/gt/c.png", disc() // 255)
    write_image(root / "val/gt/v.png", disc(HEIGHT, WIDTH - 1))
    sideways(root / "val/im/v.png")
    messages = {problem.name: problem.message for problem in check(root).problems}
    assert "turned by EXIF" in messages["a"] and "EXIF" not in messages["v"]
    assert "8-bit values in a 16-bit file" in messages["b"] and "16-bit" not in messages["c"]


def test_swapped_folders_are_told(root: Path) -> None:
    assert "look swapped" not in check(root).summary()
    (root / "train/im").rename(root / "train/x")
    (root / "train/gt").rename(root / "train/im")
    (root / "train/x").rename(root / "train/gt")
    summary = check(root).summary()
    assert summary.count("look swapped") == 1 and "  train: im/ and gt/ look swapped" in summary
    for name in "ab":  # colour for alphas, but beside photographs in colour
        write_image(root / "train/im" / f"{name}.png", picture(5))
    assert "look swapped" not in check(root).summary()


def test_both_files_of_a_pair_can_be_at_fault(root: Path) -> None:
    (root / "train/im/b.png").write_bytes(b"")
    write_image(root / "train/gt/b.png", 255 - disc())
    assert found(check(root)) == [("train/b", "empty"), ("train/b", "inverted")]


def test_files_that_do_not_match_are_all_named_and_the_rest_is_checked(root: Path) -> None:
    (root / "train/im/a.jpg").write_bytes(b"")  # beside a.png
    (root / "train/gt/b.png").unlink()
    (root / "val/im/v.png").unlink()
    (root / "val/gt/w.bmp").write_bytes(b"")
    write_split(root / "train", "c d", seed=70)
    cut(root / "train/im/d.png")
    result = check(root)
    assert found(result) == [
        ("train/d", "truncated"),
        ("train/b", "no-alpha"),
        ("val/v", "no-image"),
        ("train/a", "image-twice"),
        ("val/w", "alpha-twice"),
    ]
    messages = "\n".join(problem.message for problem in result.problems)
    for file in ("train/im/a.jpg", "train/im/a.png", "train/im/b.png", "val/gt/v.png", "val/gt/w.bmp", "val/gt/w.png"):
        assert str(root / file) in messages
    assert names(result) == "train:c val:"


def test_incomplete_trimaps_are_a_warning(root: Path) -> None:
    write_image(root / "train/trimap/a.png", np.full_like(disc(), 128))
    assert found(check(root)) == [("train/b", "no-trimap"), ("train/c", "no-trimap")]
    assert "1 trimaps" in check(root).summary() and "no trimaps" in check(root).summary()


def test_facts_are_counted(root: Path) -> None:
    write_image(root / "train/gt/a.png", disc().astype(np.uint16) * 257)
    write_image(root / "train/gt/b.png", (disc() > 127).astype(np.uint8) * 255)
    Image.open(root / "train/im/c.png").convert("L").save(root / "train/im/c.png")
    write_image(root / "train/im/d.png", picture(99, 500, 1000))
    write_image(root / "train/gt/d.png", disc(500, 1000))
    line = next(line for line in check(root).summary().splitlines() if line.startswith("  train"))
    for fact in ("4 pairs", "0.00307 to 0.5 megapixels, median 0.00307", "1 alphas of 0 and 1 only, 3 soft"):
        assert fact in line
    assert "1 alphas of 16 bits" in line and "1 images without colour" in line


def test_a_subject_that_fills_the_frame_or_stands_at_its_edge_is_not_called_inverted() -> None:
    for rows, columns in (((0, 48), (0, 60)), ((4, 48), (4, 64)), ((0, 48), (0, 32)), ((0, 48), (50, 64))):
        alpha = np.zeros((HEIGHT, WIDTH), np.float32)
        alpha[slice(*rows), slice(*columns)] = 1
        assert not looks_inverted(alpha)
    assert looks_inverted(1 - disc() / np.float32(255))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real photographs at {SHARED}")
def test_real_mattes_are_told_from_their_inverses() -> None:
    alphas = [read_alpha(pair.alpha) for pair in find_pairs(SHARED / "real", "custom", "val")]
    assert not any(looks_inverted(alpha) for alpha in alphas)
    assert sum(looks_inverted(1 - alpha) for alpha in alphas) >= 0.95 * len(alphas)


# ------------------------------------------------------------------------------------------------- duplicates


def copy(source: Path, target: Path, split: str = "val", name: str = "x") -> None:
    """The photograph at `source` as another file of a split, with a matte of its size."""
    (target / split / "im").mkdir(parents=True, exist_ok=True)
    (target / split / "im" / f"{name}.png").write_bytes(source.read_bytes())
    write_image(target / split / "gt" / f"{name}.png", disc())


@pytest.mark.parametrize(
    ("split", "kind", "other"), [("train", "duplicate", "train/im/a.png"), ("val", "leak", "train/im/a.png")]
)
@pytest.mark.parametrize("how", ["byte for byte", "saved again", "half its size", "turned by EXIF"])
def test_the_same_photograph_is_found_again(how: str, split: str, kind: str, other: str, root: Path) -> None:
    write_image(root / "train/im/a.png", picture(0, 200, 260))
    write_image(root / "train/gt/a.png", disc(200, 260))
    copy(root / "train/im/a.png", root, split)
    image, alpha = root / split / "im/x.png", root / split / "gt/x.png"
    rgb = Image.open(image)
    if how == "saved again":
        image = jpeg(image, quality=60)
    elif how == "half its size":
        rgb.resize((130, 100)).save(image)
    elif how == "turned by EXIF":
        exif = Image.Exif()
        exif[0x0112] = 6
        rgb.transpose(Image.Transpose.ROTATE_90).save(image.with_suffix(".jpg"), exif=exif)
        image.unlink()
        image = image.with_suffix(".jpg")
    write_image(alpha, disc(*((100, 130) if how == "half its size" else (200, 260))))
    result = check(root)
    assert found(result) == [(f"{split}/x", kind)]
    problem = result.problems[0]
    assert problem.file == image and problem.other == root / other
    assert str(problem.file) in problem.message and str(root / other) in problem.message
    assert ("byte for byte" in problem.message) == (how == "byte for byte")
    assert result.errors() == [] and len(result.pairs[split]) == (4 if split == "train" else 3)


def test_copies_in_three_places_are_each_reported_once_a_kind(root: Path) -> None:
    copy(root / "train/im/a.png", root, "train", "z")
    copy(root / "train/im/a.png", root, "val", "x")
    copy(root / "train/im/a.png", root, "val", "y")
    assert found(check(root)) == [
        ("val/x", "leak"),
        ("val/y", "leak"),
        ("train/z", "duplicate"),
        ("val/y", "duplicate"),
    ]


@pytest.mark.parametrize("ground", ["plain", "rich"])
def test_another_small_object_in_the_same_place_is_no_duplicate(ground: str, root: Path) -> None:
    for split, shade in (("train", 30), ("val", 130)):
        rgb = np.full((HEIGHT, WIDTH, 3), 240, np.uint8) if ground == "plain" else picture(99)
        rgb[20:26, 30:36] = shade
        write_image(root / split / "im" / "p.png", rgb)
        write_image(root / split / "gt" / "p.png", disc())
    assert found(check(root)) == []


def test_nearly_flat_pictures_are_no_duplicates_unless_their_bytes_are(root: Path) -> None:
    for number, name in enumerate("pqr"):
        noise = np.random.default_rng(number).integers(118, 123, (HEIGHT, WIDTH, 1), dtype=np.uint8)
        write_image(root / "train/im" / f"{name}.png", noise.repeat(3, axis=2))
        write_image(root / "train/gt" / f"{name}.png", disc())
    assert found(check(root)) == []
    copy(root / "train/im/q.png", root)
    assert found(check(root)) == [("val/x", "leak")]


def test_neighbours_are_those_of_a_comparison_of_all_with_all() -> None:
    rng = np.random.default_rng(0)
    bases = rng.normal(120, 6, (300, 1, 1)) + rng.normal(0, 30, (300, 16, 16))
    copies = bases[rng.integers(0, 300, 150)] + rng.uniform(0, 4, (150, 1, 1)) * rng.normal(0, 1.2, (150, 16, 16))
    thumbnails = np.clip(np.concatenate([bases, copies]), 0, 255).astype(np.uint8)[rng.permutation(450)]
    thumbnails[:10] = thumbnails[10:20]
    signatures = [Signature(str(i + 10 if i < 10 else i), each, 1.5) for i, each in enumerate(thumbnails)]
    groups = {i: {i} for i in range(450)}
    for i in range(450):
        for j in range(i):
            difference = np.abs(thumbnails[i].astype(int) - thumbnails[j])
            alike = difference.mean() <= 3 and difference.max() <= 24
            if alike or signatures[i].digest == signatures[j].digest:
                groups[i] |= groups[j]
                for member in groups[i]:
                    groups[member] = groups[i]
    expected = sorted({tuple(sorted(group)) for group in groups.values() if len(group) > 1})
    assert [tuple(group.members) for group in find_duplicates(signatures)] == expected
    assert 50 < len(expected) < 200


def test_copies_are_found_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbnails = [cv2.cvtColor(picture(i, 16, 16), cv2.COLOR_RGB2GRAY) for i in range(40)]
    thumbnails += [np.clip(each.astype(int) + 2, 0, 255).astype(np.uint8) for each in thumbnails[:20]]
    signatures = [Signature(str(i), each, 1.0) for i, each in enumerate(thumbnails)]
    for block in (1, 7, 256):
        monkeypatch.setattr(duplicates, "_BLOCK", block)
        assert [group.members for group in find_duplicates(signatures)] == [[i, i + 40] for i in range(20)]
    wide = [signature._replace(aspect=1.2) for signature in signatures[40:]]
    assert find_duplicates([*signatures[:40], *wide]) == []  # as another crop


@pytest.mark.parametrize("block", [1, 7, 256])
def test_copies_are_one_group_when_the_last_of_them_opens_a_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The five before it have nearer neighbours than it."""
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    rng = np.random.default_rng(1)
    others = [rng.integers(0, 120, (16, 16), dtype=np.uint8) for _ in range(-5 % block)]  # all darker
    base = rng.integers(60, 200, (16, 16), dtype=np.uint8)
    near = [base.copy() for _ in range(5)]
    for number, copied in enumerate(near):
        copied[0, number] += 1
    signatures = [Signature(str(i), each, 1.5) for i, each in enumerate([*others, *near, base + 2])]
    assert [group.members for group in find_duplicates(signatures)] == [[len(others) + i for i in range(6)]]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real photographs at {SHARED}")
def test_frames_of_one_video_are_no_duplicates_but_their_copies_are(tmp_path: Path) -> None:
    originals = [pair.image for pair in find_pairs(SHARED / "real", "custom", "val")]
    images = list(originals)
    for number, path in enumerate(originals):
        small = cv2.resize(read_rgb(path), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        images.append(tmp_path / f"{number}.jpg")
        cv2.imwrite(str(images[-1]), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    signatures = []
    for number, path in enumerate(images):
        (height, width), grey = inspection._read_grey(path, 10**8)
        signatures.append(Signature(str(number), duplicates.thumbnail(grey), width / height))
    assert find_duplicates(signatures[: len(originals)]) == []
    expected = [[i, i + len(originals)] for i in range(len(originals))]
    assert [group.members for group in find_duplicates(signatures)] == expected


# ------------------------------------------------------------------------------------------------- splits


def test_a_validation_set_that_is_the_test_set_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, seed in (("TR-HRSOD", 0), ("TE-HRSOD", 50)):
        write_split(tmp_path / split, "a b", seed=seed)
    write_image(tmp_path / "TE-HRSOD/gt/b.png", 255 - disc())
    read = watch(monkeypatch)
    result = check(tmp_path, "hrsod")
    assert found(result) == [("val/b", "inverted")] and len(read) == 4
    assert result.pairs["test"] == result.pairs["val"] and len(result.pairs["val"]) == 2
    assert "test: the folders of val" in result.summary()


def test_a_file_in_two_splits_is_no_leak(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write_split(tmp_path / f"DIS-TE{number}", "a b", seed=10 * number)
        for name in "ab":
            for folder in ("im", "gt"):
                path = tmp_path / f"DIS-TE{number}" / folder / f"{name}.png"
                path.rename(path.with_stem(f"{name}{number}"))
    result = check(tmp_path, "DIS5K", ("test", "dis-te2"))
    assert found(result) == [] and [len(pairs) for pairs in result.pairs.values()] == [8, 2]
    for folder in ("im", "gt"):
        (tmp_path / "DIS-TE1" / folder / "c1.png").write_bytes((tmp_path / "DIS-TE2" / folder / "a2.png").read_bytes())
    assert found(check(tmp_path, "DIS5K", ("test", "dis-te2"))) == [("test/c1", "duplicate")]  # both are in test


def test_the_splits_that_are_there_are_taken_and_a_named_one_must_be(root: Path) -> None:
    assert list(check(root).pairs) == ["train", "val"]
    assert list(check(root, splits=("VAL",)).pairs) == ["val"]
    with pytest.raises(UserError, match="no Custom test images"):
        list_dataset(root, "custom", ("train", "test"))
    with pytest.raises(UserError, match="did you mean val"):
        list_dataset(root, "custom", ("vall",))
    with pytest.raises(UserError, match=r"no Custom train images.*folders there: gt, im;"):
        list_dataset(root / "train", "custom", ("train",))


@pytest.mark.parametrize(("split", "status"), [("test", 0), ("val", 1), ("train", 1)])
@pytest.mark.parametrize("how", ["no gt", "empty"])
def test_a_broken_split_does_not_keep_the_others_from_being_checked(
    how: str, split: str, status: int, root: Path, run: Callable, refused: Callable
) -> None:
    shutil.rmtree(root / split, ignore_errors=True)
    (root / split / "im").mkdir(parents=True)
    if how == "empty":
        (root / split / "gt").mkdir()
    finished = run(check_data.main, "--data-root", root, "--sheet-pairs", 0)
    assert finished.status == status and f"  {split}: not checked: Custom {split}: no " in finished.out
    assert ("train.py cannot use this" in finished.out) == bool(status)
    for other in {"train", "val"} - {split}:
        assert f"  {other}: {3 if other == 'train' else 2} pairs" in finished.out
    assert f"Custom {split}" in refused(check_data.main, "--data-root", root, "--splits", "train", "val", split)


def test_trees_that_cannot_be_trained_on_are_told(root: Path, run: Callable, tmp_path: Path) -> None:
    def said(root: Path, *options: str) -> tuple[int, str]:
        finished = run(check_data.main, "--data-root", root, "--sheet-pairs", 0, *options)
        return finished.status, finished.out.splitlines()[-1]

    says = "no train/ found: train.py cannot use this; folders here: gt, im"
    assert said(root / "train") == (1, says)  # without splits, which is a test set
    assert said(root / "train", "--splits", "test")[0] == 0
    for kind in ("im", "gt"):
        shutil.copytree(root / "train" / kind, tmp_path / "inside" / kind / "train")
    assert said(tmp_path / "inside") == (1, says)
    (root / "val").rename(root / "validation")
    says = "no val/ or test/ found: train.py cannot use this; folders here: train, validation"
    assert said(root) == (1, says)
    (root / "validation").rename(root / "test")
    assert said(root)[0] == 0  # train.py validates on it
    shutil.copytree(root / "train/im", tmp_path / "ppm/image")
    shutil.copytree(root / "train/gt", tmp_path / "ppm/matte")
    assert said(tmp_path / "ppm", "--dataset", "ppm-100")[0] == 0  # a test set only


# ------------------------------------------------------------------------------------------------- the cache


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pairs that are read from now on."""
    read: list[str] = []
    inspect = inspection.inspect_pair

    def watched(pair: object, max_pixels: int) -> object:
        read.append(pair.name)
        return inspect(pair, max_pixels)

    monkeypatch.setattr(checks, "inspect_pair", watched)
    return read


def interrupt_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when a pair of this name is to be read."""
    inspect = inspection.inspect_pair

    def interrupted(pair: Pair, max_pixels: int) -> object:
        if pair.name == name:
            raise KeyboardInterrupt
        return inspect(pair, max_pixels)

    monkeypatch.setattr(checks, "inspect_pair", interrupted)


@pytest.fixture
def faulty(root: Path) -> Path:
    """`root` with an error, a warning of one file, and a duplicate."""
    cut(root / "train/im/b.png")
    write_image(root / "val/gt/w.png", 255 - disc())
    copy(root / "train/im/a.png", root)
    return root


def test_a_second_check_reads_nothing_and_says_the_same(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "x.jsonl"
    before = check(faulty, cache=cache)
    assert len(before.problems) == 3
    read = watch(monkeypatch)
    again = check(faulty, cache=cache)
    assert read == [] and again == before and again.summary() == before.summary()


def test_what_changed_is_read_again_alone(faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "x.jsonl"
    check(faulty, cache=cache)
    read = watch(monkeypatch)
    write_image(faulty / "train/im/b.png", picture(1))
    state = os.stat(faulty / "train/gt/c.png")
    data = bytearray((faulty / "train/gt/c.png").read_bytes())
    (faulty / "train/gt/c.png").write_bytes(data)
    os.utime(faulty / "train/gt/c.png", ns=(state.st_atime_ns, state.st_mtime_ns + 1))  # the same size
    write_split(faulty / "val", "new", seed=90)
    assert ("train/b", "truncated") not in found(check(faulty, cache=cache))
    assert sorted(read) == ["b", "c", "new"]
    read.clear()
    check(faulty, cache=cache)
    assert read == []
    check(faulty, cache=cache, max_pixels=HEIGHT * WIDTH)
    assert len(read) == 7
    assert {kind for _, kind in found(check(faulty, cache=cache, max_pixels=HEIGHT * WIDTH - 1))} >= {"too-large"}
    read.clear()
    check(faulty, cache=cache, recheck=True, max_pixels=HEIGHT * WIDTH - 1)
    assert len(read) == 7


def test_checks_of_another_version_do_not_count(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "x.jsonl"
    check(root, cache=cache)
    read = watch(monkeypatch)
    monkeypatch.setattr("utils.check_cache.VERSION", inspection.VERSION + 1)
    check(root, cache=cache)
    assert len(read) == 5


def remembered(cache: Path) -> int:
    return len(cache.read_text().splitlines())


def test_a_check_of_one_split_leaves_what_is_known_of_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "x.jsonl"
    check(root, cache=cache)
    check(root, cache=cache, splits=("val",), recheck=True)
    assert remembered(cache) == 5
    check(root, cache=cache, splits=("val",), max_pixels=MAX_PIXELS - 1)
    read = watch(monkeypatch)
    check(root, cache=cache)
    assert read == []
    check(root, cache=cache, max_pixels=MAX_PIXELS - 1)
    assert sorted(read) == ["a", "b", "c"]
    (root / "val/im/v.png").unlink()
    (root / "val/gt/v.png").unlink()
    check(root, cache=cache, recheck=True)
    assert remembered(cache) == 4 + 4  # nothing twice, and nothing of what is gone


def test_an_interrupted_recheck_is_continued(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "x.jsonl"
    check(root, cache=cache)
    interrupt_at("c", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        check(root, cache=cache, num_workers=1, recheck=True)
    read = watch(monkeypatch)
    check(root, cache=cache)
    assert sorted(read) == ["c", "v", "w"]


@pytest.mark.parametrize("file", ["train/im/b.png", "train/gt/b.png"])
def test_a_file_that_cannot_be_opened_is_tried_again(
    file: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its size nor its time of change tells that it can be, now."""
    opened = Path.open

    def too_many(path: Path, *args: object, **options: object) -> object:
        if path == root / file:
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return opened(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", too_many)
        result = check(root, cache=tmp_path / "x.jsonl")
    assert found(result) == [("train/b", "unreadable")] and "Too many open files" in result.problems[0].message
    read = watch(monkeypatch)
    assert found(check(root, cache=tmp_path / "x.jsonl")) == [] and read == ["b"]


@pytest.mark.parametrize("harm", ["garbage", "empty", "half", "types", "list", "thumbnail", "kind", "folder"])
def test_a_damaged_cache_is_no_cache(harm: str, faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "x.jsonl"
    before = check(faulty, cache=cache)
    lines = cache.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    if harm == "garbage":
        cache.write_bytes(os.urandom(3000))
    elif harm == "empty":
        cache.write_bytes(b"")
    elif harm == "half":
        cache.write_text("".join(lines[:-1]) + lines[-1][:40])
    elif harm == "types":
        cache.write_text("".join(json.dumps(json.loads(line) | {"seen": {"findings": 3}}) + "\n" for line in lines))
    elif harm == "list":
        cache.write_text("[1, 2]\nnull\n3\n" * 3)
    elif harm == "thumbnail":
        cache.write_text("".join(line.replace('"thumbnail": "', '"thumbnail": "AAAA') for line in lines))
    elif harm == "kind":
        cache.write_text("".join(line.replace("truncated", "cut") for line in lines))
    else:
        cache.unlink()
        cache.mkdir()
    read = watch(monkeypatch)
    assert check(faulty, cache=cache) == before
    assert len(read) == (1 if harm in ("half", "kind") else 6)
    if harm != "folder":
        read.clear()
        assert check(faulty, cache=cache) == before and read == []


def test_an_interrupted_check_keeps_what_it_has_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "x.jsonl"
    interrupt_at("v", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        check(root, cache=cache, num_workers=1)
    read = watch(monkeypatch)
    assert found(check(root, cache=cache)) == []
    assert sorted(read) == ["v", "w"]


def test_the_dataset_is_never_written_to(faulty: Path, tmp_path: Path) -> None:
    def tree() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in faulty.rglob("*")}

    before = tree()
    check(faulty, cache=tmp_path / "x.jsonl")
    assert tree() == before


def test_one_dataset_has_one_cache_whatever_path_leads_there(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    ways = [root, tmp_path / "link", root / "train" / ".."]
    assert len({cache_file(tmp_path, way) for way in ways}) == 1
    assert cache_file(tmp_path, root) != cache_file(tmp_path, root / "train")


def test_the_number_of_threads_changes_nothing(faulty: Path) -> None:
    assert check(faulty, num_workers=1) == check(faulty, num_workers=7)


# ------------------------------------------------------------------------------------------------- what is said


def test_training_is_refused_with_the_remedy_or_goes_on_without(faulty: Path) -> None:
    result = check(faulty)
    with pytest.raises(UserError) as caught:
        require_usable(result, "error")
    message = str(caught.value)
    for part in ("(1 truncated)", str(faulty / "train/im/b.png"), "2 in train and 3 in val", "--on-bad skip"):
        assert part in message
    assert f"python -m tools.check_data --data-root {faulty} --dataset Custom" in message and "\n" not in message
    assert {split: len(pairs) for split, pairs in require_usable(result, "skip").items()} == {"train": 2, "val": 3}


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_a_split_without_a_usable_pair_is_always_refused(on_bad: str, root: Path) -> None:
    for file in ("train/im/a.png", "val/im/v.png", "val/im/w.png"):
        cut(root / file)
    with pytest.raises(
        UserError, match=r"none of the val pairs can be used: \S*/val/im/v\.png: .*; \S*/val/im/w\.png: "
    ):
        require_usable(check(root), on_bad)


def test_warnings_never_stop_training(root: Path) -> None:
    write_image(root / "train/gt/b.png", 255 - disc())
    assert len(require_usable(check(root), "error")["train"]) == 3


def test_a_fault_of_most_of_the_set_is_said_to_be_one(root: Path) -> None:
    for name in "ab":
        write_image(root / "train/gt" / f"{name}.png", 255 - disc())
    write_image(root / "val/gt/v.png", disc() // 3)
    summary = check(root).summary()
    assert "inverted     2 (2 of 3 in train): train/a, train/b" in summary
    assert "faint        1: val/v" in summary and "3 warnings" in summary


def test_names_without_a_pair_are_no_share_of_the_pairs(root: Path) -> None:
    for name in "ab":
        (root / "train/gt" / f"{name}.png").unlink()
    assert "no-alpha     2: train/a, train/b" in check(root).summary()


def test_many_names_are_counted(tmp_path: Path) -> None:
    write_split(tmp_path / "test", " ".join(f"n{i}" for i in range(9)))
    for number in range(6):
        write_image(tmp_path / "test/gt" / f"n{number}.png", np.zeros_like(disc()))
    assert "6 (6 of 9 in test): test/n0, test/n1, test/n2, 3 more" in check(tmp_path).summary()


ODD_NAMES = ["with space", 'comma, "quote"', "new\nline", "漢字 🙂", os.fsdecode(b"latin_\xe9"), "sub/deep/é", "=1+1"]


def test_the_table_can_be_read_back_whatever_the_names(tmp_path: Path) -> None:
    problems = [
        Problem("train", name, tmp_path / f"{name}.png", kind, f"{tmp_path / name}: why; what to do")
        for name, kind in zip(ODD_NAMES, [*checks.ERRORS], strict=False)
    ]
    write_problems(tmp_path / "out" / "problems.csv", problems)
    with open(tmp_path / "out" / "problems.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    plain = [name.encode("utf-8", "backslashreplace").decode() for name in ODD_NAMES]
    assert [row["name"] for row in rows] == plain
    assert [Path(row["file"]).stem for row in rows] == [Path(f"{name}.png").stem for name in plain]
    assert {row["severity"] for row in rows} == {"error"} and all("\n" not in row["message"] for row in rows)


# ------------------------------------------------------------------------------------------------- the tool


def test_the_tool_tells_shows_and_counts(run: Callable, faulty: Path) -> None:
    finished = run(check_data.main, "--data-root", faulty)
    assert finished.status == 1
    for part in (
        "1 error:",
        "2 warnings:",
        "train/b",
        "val/w",
        "val/x",
        "--on-bad skip uses 2 pairs of train, 3 pairs",
    ):
        assert part in finished.out
    made = [path for path in finished.created if not path.startswith("cwd/checkpoints")]
    assert made == ["cwd/data_check", "cwd/data_check/contact_sheet.png", "cwd/data_check/problems.csv"]
    sheet = read_rgb(Path("data_check/contact_sheet.png"))
    assert (sheet == RED).all(axis=2).sum() > 3 * check_data.TILE_PX
    assert (sheet == AMBER).all(axis=2).sum() > 2 * 3 * check_data.TILE_PX
    again = run(check_data.main, "--data-root", faulty, "--on-bad", "skip")
    assert again.status == 0 and again.out == finished.out
    assert "check:" not in again.err  # nothing was read again


def test_the_tool_is_content_with_a_sound_dataset(run: Callable, root: Path, tmp_path: Path) -> None:
    finished = run(
        check_data.main, "--data-root", root, "--splits", "val", "--output", tmp_path / "o", "--sheet-pairs", 1
    )
    assert finished.status == 0 and "0 errors" in finished.out and "train" not in finished.out
    assert read_rgb(tmp_path / "o/contact_sheet.png").shape[1] < 3 * check_data.TILE_PX
    finished = run(check_data.main, "--data-root", root, "--output", tmp_path / "p", "--sheet-pairs", 0)
    assert finished.status == 0 and [p.name for p in (tmp_path / "p").iterdir()] == ["problems.csv"]


def test_a_split_without_a_usable_pair_fails_even_with_skip(run: Callable, root: Path) -> None:
    for name in "vw":
        cut(root / "val/im" / f"{name}.png")
    finished = run(check_data.main, "--data-root", root, "--on-bad", "skip")
    assert finished.status == 1 and "no usable pair of val" in finished.out


def test_names_of_any_kind_are_printed_and_drawn(run: Callable, tmp_path: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        write_image(tmp_path / "d/train/im" / f"{name}.png", picture(number))
        write_image(tmp_path / "d/train/gt" / f"{name}.png", np.zeros_like(disc()))
    (tmp_path / "d/train/im/.hidden.jpg").write_bytes(b"")
    finished = run(check_data.main, "--data-root", tmp_path / "d", "--splits", "train", "--output", tmp_path / "o")
    assert finished.status == 0 and f"{len(ODD_NAMES)} of {len(ODD_NAMES)} in train" in finished.out
    finished.out.encode()  # nothing a terminal would stumble over


def test_wrong_use_is_refused_before_any_work(refused: Callable, root: Path, tmp_path: Path) -> None:
    inside = root / "train" / "im" / "out"
    assert str(inside) in refused(check_data.main, "--data-root", root, "--output", inside)
    (tmp_path / "link").symlink_to(root / "val" / "gt")
    assert "--output" in refused(check_data.main, "--data-root", root, "--output", tmp_path / "link")
    (tmp_path / "file").touch()
    assert "--output" in refused(check_data.main, "--data-root", root, "--output", tmp_path / "file")
    assert "no Custom test" in refused(check_data.main, "--data-root", root, "--splits", "test")
    assert "--data-root" in refused(check_data.main, "--data-root", tmp_path / "nowhere")


@pytest.mark.parametrize(("height", "width", "fits"), [(600, 800, True), (300, 400, False), (601, 801, False)])
def test_a_matte_is_drawn_over_its_photograph_only_at_the_same_size(
    height: int, width: int, fits: bool, tmp_path: Path
) -> None:
    """Made small, a picture and its half have one size."""
    write_image(tmp_path / "im.png", picture(0, 600, 800))
    write_image(tmp_path / "gt.png", disc(height, width))
    rgb, view = check_data.views(Pair("a", tmp_path / "im.png", tmp_path / "gt.png"), MAX_PIXELS)
    assert rgb.shape == (210, 280, 3)
    assert view.shape == ((210, 280, 3) if fits else (210, 280))


def test_tiles_tell_sizes_and_paths_below_the_root(root: Path) -> None:
    write_image(root / "train/gt/a.png", disc(HEIGHT, WIDTH - 1))
    (root / "train/im/b.png").write_bytes(b"")
    (root / "train/gt/c.png").rename(root / "train/gt/c.gif")
    result = check(root)
    tiles = {each.name: check_data.faulty_tile([each], result, MAX_PIXELS) for each in result.problems}
    assert tiles["a"].caption == "size-differs: 64x48 and 63x48 · train/a"
    assert tiles["b"].pictures[0].startswith("train/im/b.png: empty")
    assert len(tiles["c"].pictures) == 1 and tiles["c"].pictures[0].startswith(
        "train/gt/c.gif: a type that is not read"
    )


def test_every_kind_of_problem_is_on_the_sheet_before_a_second_of_one(root: Path) -> None:
    problems = [Problem("train", f"e{i}", root, "truncated", "") for i in range(4)]
    problems += [Problem("train", "e9", root, "empty", ""), Problem("train", "e9", root, "inverted", "")]
    problems += [Problem("val", f"w{i}", root, kind, "") for i, kind in enumerate(["faint", "faint", "constant"])]
    order = [each[0].name for each in check_data.one_of_each_kind_first(problems, 9)]
    assert order == ["e0", "e9", "e1", "e2", "e3", "w0", "w2", "w1"]
    order = [each[0].name for each in check_data.one_of_each_kind_first(problems, 2)]
    assert order == ["e0", "e9", "e3", "w0", "w2", "w1"]
