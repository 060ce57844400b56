"""utils.pairs and utils.layouts: published trees are found, faults are named."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.errors import UserError
from utils.images import write_image
from utils.layouts import BENCHMARKS, DATASETS
from utils.pairs import Pair, check_pairs, find_benchmark, find_pairs

SHARED = Path(__file__).parents[2] / "shared" / "data"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def tree(root: Path, images: str, alphas: str, names: str = "a b", suffix: str = ".jpg") -> None:
    for name in names.split():
        touch(root / images / f"{name}{suffix}", root / alphas / f"{name}.png")


def names(pairs: list[Pair]) -> str:
    return " ".join(pair.name for pair in pairs)


# Written down from the publishers' own code and instructions, not from the registry.
PUBLISHED = [
    ("DIS5K", "train", "DIS-TR/im", "DIS-TR/gt"),
    ("DIS5K", "val", "DIS-VD/im", "DIS-VD/gt"),
    ("DIS5K", "DIS-TE3", "DIS-TE3/im", "DIS-TE3/gt"),
    ("DIS5K", "DIS-TE3", "DIS-TE3/images", "DIS-TE3/masks"),
    ("DIS5K", "train", "train/im", "train/gt"),
    ("DIS5K", "val", "val/im", "val/gt"),
    ("DIS5K", "test", "test/im", "test/gt"),
    ("DIS5K", "DIS-TE4", "test/DIS-TE4/im", "test/DIS-TE4/gt"),
    ("HRS10K", "train", "TR-HRS10K/im", "TR-HRS10K/gt"),
    ("HRS10K", "test", "TE-HRS10K/im", "TE-HRS10K/gt"),
    ("HRS10K", "train", "train/img_train_2560max", "train/label_train_2560max"),
    ("HRS10K", "test", "test/img_test_2560max", "test/label_test_2560max"),
    ("HRS10K", "test", "img_test", "label_test"),
    ("HRSOD", "train", "TR-HRSOD/im", "TR-HRSOD/gt"),
    ("HRSOD", "test", "HRSOD_TEsets/TE-HRSOD/im", "HRSOD_TEsets/TE-HRSOD/gt"),
    ("HRSOD", "train", "HRSOD_train", "HRSOD_train_mask"),
    ("HRSOD", "test", "HRSOD_test", "HRSOD_test_mask"),
    ("HRSOD", "train", "HRSOD-TR/images", "HRSOD-TR/masks"),
    ("UHRSD", "train", "UHRSD_TR_2K/image", "UHRSD_TR_2K/mask"),
    ("UHRSD", "test", "UHRSD_TE_2K/image", "UHRSD_TE_2K/mask"),
    ("UHRSD", "test", "UHRSD_TE/image", "UHRSD_TE/mask"),
    ("UHRSD", "test", "TE-UHRSD/im", "TE-UHRSD/gt"),
    ("UHRSD", "train", "UHRSD-TR/images", "UHRSD-TR/masks"),
    ("COD10K", "train", "Train/Image", "Train/GT_Object"),
    ("COD10K", "test", "Test/Image", "Test/GT_Object"),
    ("COD10K", "train", "TrainValDataset/Imgs", "TrainValDataset/GT"),
    ("COD10K", "train", "TrainDataset/Image", "TrainDataset/GT"),
    ("COD10K", "test", "TestDataset/COD10K/Imgs", "TestDataset/COD10K/GT"),
    ("COD10K", "train", "COD_TRsets/TR-COD10K/im", "COD_TRsets/TR-COD10K/gt"),
    ("COD10K", "test", "COD_TEsets/TE-COD10K/im", "COD_TEsets/TE-COD10K/gt"),
    ("P3M-10K", "train", "train/blurred_image", "train/mask"),
    ("P3M-10K", "val", "validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask"),
    ("P3M-10K", "P3M-500-P", "validation1/blurred_image", "validation1/mask"),
    ("P3M-10K", "P3M-500-NP", "validation/P3M-500-NP/original_image", "validation/P3M-500-NP/mask"),
    ("P3M-10K", "test", "validation2/original_image", "validation2/mask"),
    ("AIM-500", "test", "original", "mask"),
    ("AIM-500", "test", "validation/original", "validation/mask"),
    ("AM-2K", "train", "train/original", "train/mask"),
    ("AM-2K", "val", "validation/original", "validation/mask"),
    ("PPM-100", "test", "image", "matte"),
    ("Custom", "train", "train/im", "train/gt"),
    ("Custom", "val", "val/im", "val/gt"),
    ("Custom", "test", "test/im", "test/gt"),
    ("Custom", "test", "im", "gt"),
    ("Embedded", "train", "train/im", "train/gt"),
    ("Embedded", "val", "val/im", "val/gt"),
]


@pytest.mark.parametrize(("dataset", "split", "images", "alphas"), PUBLISHED)
def test_published_tree_is_found(dataset: str, split: str, images: str, alphas: str, tmp_path: Path) -> None:
    root = tmp_path / dataset
    tree(root, images, alphas)
    pairs = find_pairs(root, dataset.lower(), split)
    assert pairs == [Pair(n, root / images / f"{n}.jpg", root / alphas / f"{n}.png") for n in ("a", "b")]
    assert find_pairs(tmp_path, dataset, split) == pairs  # the folder that holds the dataset's


def test_every_dataset_is_covered() -> None:
    assert {dataset for dataset, *_ in PUBLISHED} == set(DATASETS)
    for dataset, split in BENCHMARKS.values():
        assert split in DATASETS[dataset].splits


@pytest.mark.parametrize("prefix", ["", "test/"])
def test_dis5k_test_sets_are_pooled(prefix: str, tmp_path: Path) -> None:
    for i in (1, 2, 3, 4):
        tree(tmp_path, f"{prefix}DIS-TE{i}/im", f"{prefix}DIS-TE{i}/gt", names=f"x{i} y{i}")
    assert names(find_pairs(tmp_path, "DIS5K", "test")) == "x1 x2 x3 x4 y1 y2 y3 y4"
    assert names(find_pairs(tmp_path, "DIS5K", "DIS-TE2")) == "x2 y2"
    (tmp_path / f"{prefix}DIS-TE3/im").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{prefix}DIS-TE3/im"):
        find_pairs(tmp_path, "DIS5K", "test")


def test_splits_of_one_folder_are_not_confused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        tree(tmp_path, f"img_{split}", f"label_{split}", names=split)
    assert names(find_pairs(tmp_path, "HRS10K", "train")) == "train"
    assert names(find_pairs(tmp_path, "HRS10K", "test")) == "test"
    tree(tmp_path / "other", "im", "gt")  # says nothing about its split
    with pytest.raises(UserError, match="no HRS10K train images"):
        find_pairs(tmp_path / "other", "HRS10K", "train")


def test_photographs_without_a_camouflaged_object_are_no_samples(tmp_path: Path) -> None:
    tree(tmp_path, "Test/Image", "Test/GT_Object", names="COD10K-CAM-1-a COD10K-NonCAM-1-b")
    touch(tmp_path / "Test/Image/COD10K-NonCAM-2-c.jpg")  # some releases have no mask for these
    assert names(find_pairs(tmp_path, "COD10K", "test")) == "COD10K-CAM-1-a"


# ------------------------------------------------------------------------------------------------- benchmarks


def test_benchmarks_are_found_beside_each_other(tmp_path: Path) -> None:
    tree(tmp_path, "DIS5K/DIS-TE1/im", "DIS5K/DIS-TE1/gt", names="dis")
    tree(tmp_path, "HR10K/test/img_test_2560max", "HR10K/test/label_test_2560max", names="hrs")
    tree(tmp_path, "am2k/validation/original", "am2k/validation/mask", names="am")
    tree(tmp_path, "AIM-500/original", "AIM-500/mask", names="aim")
    expected = {"DIS-TE1": "dis", "hrs10k": "hrs", "AM-2K": "am", "aim-500": "aim"}
    assert {name: names(find_benchmark(tmp_path, name)) for name in expected} == expected
    assert names(find_benchmark(tmp_path / "DIS5K", "dis-te1")) == "dis"
    assert names(find_benchmark(tmp_path / "am2k", "AM-2K/val")) == "am"


def test_benchmark_never_takes_another_datasets_images(tmp_path: Path) -> None:
    """test/im could be anybody's: scores of DIS5K would be printed as HRS10K's."""
    tree(tmp_path / "DIS5K_Flat", "test/im", "test/gt")
    tree(tmp_path / "DIS5K_Flat", "test/DIS-TE1/im", "test/DIS-TE1/gt", names="a")
    tree(tmp_path / "AM-2K", "validation/original", "validation/mask")
    assert names(find_benchmark(tmp_path / "DIS5K_Flat", "DIS-TE")) == "a b"
    assert names(find_benchmark(tmp_path / "DIS5K_Flat", "DIS-TE1")) == "a"
    for root, name in (("DIS5K_Flat", "HRS10K"), ("DIS5K_Flat", "UHRSD"), ("AM-2K", "AIM-500")):
        with pytest.raises(UserError, match=f"no {name} test images"):
            find_benchmark(tmp_path / root, name)


def test_own_folder_is_a_benchmark(tmp_path: Path) -> None:
    tree(tmp_path, "im", "gt")
    tree(tmp_path, "val/im", "val/gt", names="v")
    assert names(find_benchmark(tmp_path, "custom")) == "a b"
    assert names(find_benchmark(tmp_path, "custom/val")) == "v"


@pytest.mark.parametrize(
    ("find", "says"),
    [
        (lambda root: find_pairs(root, "DIS5"), "unknown dataset 'DIS5': did you mean DIS5K?.*P3M-10K"),
        (lambda root: find_pairs(root, "custom", "valid"), "unknown split of Custom 'valid': did you mean val?"),
        (lambda root: find_pairs(root, "AIM-500", "train"), "unknown split of AIM-500 'train'.*test"),
        (lambda root: find_benchmark(root, "DISTE5"), "unknown benchmark 'DISTE5': did you mean DIS-TE"),
        (lambda root: find_benchmark(root, "custum/val"), "unknown dataset 'custum': did you mean Custom?"),
    ],
)
def test_unknown_names_get_the_nearest_valid_one(find: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        find(tmp_path)


def test_missing_data_says_what_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("DIS5K").mkdir()
    for root in ("DIS5K", "nowhere"):
        with pytest.raises(UserError) as caught:
            find_pairs(Path(root), "DIS5K", "train")
        message = str(caught.value)
        for part in (
            "DIS5K train",
            str(tmp_path / root),
            "--data-root",
            "python train.py demo",
            DATASETS["DIS5K"].home,
        ):
            assert part in message
        assert "\n" not in message


# ------------------------------------------------------------------------------------------------- pairing


def test_pairs_are_in_natural_order_whatever_their_names(tmp_path: Path) -> None:
    tree(tmp_path, "train/im", "train/gt", names="x10 x2 1#Frame#3#Rack#77_o a.b")
    touch(tmp_path / "train/im/cat/with space.jpg", tmp_path / "train/gt/cat/with space.png")
    touch(tmp_path / "train/im/" / unicodedata.normalize("NFC", "é.jpg"))
    touch(tmp_path / "train/gt/" / unicodedata.normalize("NFD", "é.png"))  # as macOS archives write it
    for litter in ("im/.DS_Store", "gt/Thumbs.db", "im/._x2.jpg", "gt/readme.txt"):
        touch(tmp_path / "train" / litter)
    pairs = find_pairs(tmp_path)
    expected = ["1#Frame#3#Rack#77_o", "a.b", "cat/with space", "x2", "x10", unicodedata.normalize("NFC", "é")]
    assert [pair.name for pair in pairs] == expected


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["im/lonely.jpg"], r"1 without alpha \(lonely\)"),
        ([f"im/l{i}.jpg" for i in range(12)], r"12 without alpha \(l0, l1, l2, 9 more\)"),
        (["gt/lonely.png"], r"1 alphas without image \(lonely\)"),
        (["im/a.png"], r"1 image names twice \(a\.(jpg = a\.png|png = a\.jpg)\)"),
        (["gt/b.jpg"], r"1 alpha names twice \(b\.(jpg = b\.png|png = b\.jpg)\)"),
        (["im/l.jpg", "gt/m.png", "im/b.bmp"], r"1 without alpha \(l\); 1 alphas without image \(m\); 1 image names"),
    ],
)
def test_files_that_do_not_pair_up_are_counted_and_named(extra: list[str], says: str, tmp_path: Path) -> None:
    tree(tmp_path, "train/im", "train/gt")
    touch(*(tmp_path / "train" / name for name in extra))
    with pytest.raises(UserError, match=says) as caught:
        find_pairs(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "train/im").mkdir(parents=True)
    with pytest.raises(UserError, match=f"no folder {tmp_path}/train/gt for the alphas"):
        find_pairs(tmp_path)
    (tmp_path / "train/gt").mkdir()
    touch(tmp_path / "train/im/.DS_Store")
    with pytest.raises(UserError, match=f"no images in {tmp_path}/train/im"):
        find_pairs(tmp_path)


def write_pair(root: Path, name: str, size: tuple[int, int], alpha_size: tuple[int, int] | None = None) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    write_image(root / "im" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    write_image(root / "gt" / f"{name}.png", rng.integers(0, 256, alpha_size or size, dtype=np.uint8))


def test_sizes_are_compared_as_displayed(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", (6, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 9)).save(tmp_path / "im/a.png", exif=exif)  # displayed as 9 wide, 6 high
    check_pairs(find_pairs(tmp_path, split="test"))
    write_pair(tmp_path, "b", (6, 9), alpha_size=(9, 6))
    write_pair(tmp_path, "c", (6, 9))
    (tmp_path / "gt/c.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"2 of 3 pairs .*b\.png is 9x6 but .*b\.png is 6x9.*c\.png: empty file"
    ) as caught:
        check_pairs(find_pairs(tmp_path, split="test"))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real photographs at {SHARED}")
def test_real_photographs_are_found() -> None:
    assert len(find_pairs(SHARED / "real", "custom", "train")) == 186
    val = find_pairs(SHARED / "real", "custom", "val")
    assert len(val) == 33
    check_pairs(val)
