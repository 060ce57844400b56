"""utils.pairs, utils.names and utils.layouts: published trees are found, faults are named."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from utils.encoding import write_image
from utils.errors import UserError
from utils.layouts import BENCHMARKS, DATASETS
from utils.names import match_names, pair_by_name
from utils.pairs import NotFound, Pair, find_benchmark, find_pairs, list_in_layout, present_benchmarks

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
    ("PhotoMatte85", "test", "im", "gt"),  # published without images: the project's own tree
    ("Composition-1k", "test", "merged", "alpha_copy"),
    ("Composition-1k", "test", "Test_set/merged", "Test_set/alpha_copy"),
    ("Composition-1k", "test", "Combined_Dataset/Test_set/merged", "Combined_Dataset/Test_set/alpha_copy"),
    (
        "Composition-1k",
        "test",
        "Combined_Dataset/Test_set/Adobe-licensed images/merged",
        "Combined_Dataset/Test_set/Adobe-licensed images/alpha_copy",
    ),
    ("UHRIM", "test", "Test/merged", "Test/alpha_copy"),
    ("UHRIM", "test", "test/merged", "test/alpha_copy"),
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


# ------------------------------------------------------------------------------------------------- trimaps

# Written down from the publishers' own code and instructions, not from the registry.
PUBLISHED_TRIMAPS = [
    ("P3M-10K", "P3M-500-P", "validation1", "blurred_image", "mask", "trimap"),
    ("P3M-10K", "P3M-500-NP", "validation2", "original_image", "mask", "trimap"),
    ("P3M-10K", "P3M-500-NP", "validation/P3M-500-NP", "original_image", "mask", "trimap"),
    ("AIM-500", "test", ".", "original", "mask", "trimap"),
    ("AIM-500", "test", "validation", "original", "mask", "trimap"),
    ("AM-2K", "val", "validation", "original", "mask", "trimap"),
    ("Composition-1k", "test", ".", "merged", "alpha_copy", "trimaps"),
    ("Composition-1k", "test", "Test_set/Adobe-licensed images", "merged", "alpha_copy", "trimaps"),
    ("UHRIM", "test", "Test", "merged", "alpha_copy", "trimaps"),
    ("Custom", "val", "val", "im", "gt", "trimap"),
]


@pytest.mark.parametrize(("dataset", "split", "place", "images", "alphas", "trimaps"), PUBLISHED_TRIMAPS)
def test_published_trimaps_are_found(
    dataset: str, split: str, place: str, images: str, alphas: str, trimaps: str, tmp_path: Path
) -> None:
    root = tmp_path / dataset
    tree(root / place, images, alphas, names="boy_9 boy_10")
    assert [pair.trimap for pair in find_pairs(root, dataset, split, trimaps=True)] == [None, None]
    touch(*(root / place / trimaps / f"{name}.png" for name in ("boy_9", "boy_10", "another")))
    pairs = find_pairs(root, dataset, split, trimaps=True)
    assert [pair.trimap for pair in pairs] == [root / place / trimaps / f"boy_{i}.png" for i in (9, 10)]
    assert find_benchmark(tmp_path, f"{dataset}/{split}", trimaps=True) == pairs
    for unasked in (find_pairs(root, dataset, split), find_benchmark(tmp_path, f"{dataset}/{split}")):
        assert unasked == [pair._replace(trimap=None) for pair in pairs]


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ("a.png", r"2 images, 1 without trimap \(b\) in .*val/trimap; complete the folder or correct --data-root"),
        ("", r"2 images, 2 without trimap \(a, b\)"),
        ("a.png a.bmp b.png", r"2 images, 1 trimap names twice \(a\.(bmp = a\.png|png = a\.bmp)\)"),
    ],
)
def test_trimaps_that_lack_are_counted_and_named_if_they_are_asked_for(there: str, says: str, tmp_path: Path) -> None:
    tree(tmp_path, "val/im", "val/gt")
    (tmp_path / "val/trimap").mkdir()
    touch(*(tmp_path / "val/trimap" / name for name in there.split()))
    assert names(find_pairs(tmp_path, split="val")) == "a b"
    with pytest.raises(UserError, match=says) as caught:
        find_pairs(tmp_path, split="val", trimaps=True)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


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
    tree(tmp_path / "Others", "Test_set/merged", "Test_set/alpha_copy")
    assert names(find_benchmark(tmp_path / "DIS5K_Flat", "DIS-TE")) == "a b"
    assert names(find_benchmark(tmp_path / "DIS5K_Flat", "DIS-TE1")) == "a"
    for root, name in (
        ("DIS5K_Flat", "HRS10K"),
        ("DIS5K_Flat", "UHRSD"),
        ("AM-2K", "AIM-500"),
        ("Others", "Composition-1k"),
    ):
        with pytest.raises(UserError, match=f"no {name} test images"):
            find_benchmark(tmp_path / root, name)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("dataset", "split", "images", "alphas"), PUBLISHED)
def test_no_tree_is_taken_for_two_datasets(
    dataset: str, split: str, images: str, alphas: str, named: bool, tmp_path: Path
) -> None:
    root = tmp_path / (dataset if named else "data")
    tree(root, images, alphas)
    own = {name for name, (owner, _) in BENCHMARKS.items() if owner == dataset}
    for where in (root, tmp_path):
        try:
            present, absent = present_benchmarks(where)
        except NotFound:
            continue
        assert set(present) <= own
        assert set(absent) == set(BENCHMARKS) - set(present) - {"Custom", "Embedded"}


def test_benchmarks_that_are_there_are_told_from_those_that_are_not(tmp_path: Path) -> None:
    for i in (1, 2, 3, 4):
        tree(tmp_path, f"DIS5K/DIS-TE{i}/im", f"DIS5K/DIS-TE{i}/gt", names=f"x{i}")
    tree(tmp_path, "PPM-100/image", "PPM-100/matte")
    tree(tmp_path, "Composition-1k-testset/merged", "Composition-1k-testset/alpha_copy")
    tree(tmp_path, "im", "gt")  # could be anybody's
    present, absent = present_benchmarks(tmp_path)
    assert present == ["DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4", "DIS-TE", "PPM-100", "Composition-1k"]
    assert absent[:3] == ["DIS-VD", "HRS10K", "HRSOD"] and not {"Custom", "Embedded"} & {*absent}
    assert present_benchmarks(tmp_path / "PPM-100")[0] == ["PPM-100"]


def test_pooled_benchmark_is_absent_if_a_part_is(tmp_path: Path) -> None:
    for i in (1, 3):
        tree(tmp_path, f"DIS5K/DIS-TE{i}/im", f"DIS5K/DIS-TE{i}/gt")
    present, absent = present_benchmarks(tmp_path)
    assert present == ["DIS-TE1", "DIS-TE3"]
    assert "DIS-TE" in absent


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("im/lonely.png gt/a.png im/a.png", r"HRSOD test: 2 images, 1 without alpha \(lonely\)"),
        ("im/a.png", r"HRSOD test: no folder .*/gt for the alphas"),
        ("gt/a.png", r"HRSOD test: no folder .*/im for the images"),
        ("im/readme.txt gt/readme.txt", r"HRSOD test: no images in"),
    ],
)
def test_broken_benchmark_is_not_passed_over(broken: str, says: str, tmp_path: Path) -> None:
    tree(tmp_path, "PPM-100/image", "PPM-100/matte")
    touch(*(tmp_path / "HRSOD/TE-HRSOD" / name for name in broken.split()))
    with pytest.raises(UserError, match=says) as caught:
        present_benchmarks(tmp_path)
    assert not isinstance(caught.value, NotFound)


def test_no_benchmark_at_all_names_the_folder(tmp_path: Path) -> None:
    tree(tmp_path, "test/im", "test/gt")
    with pytest.raises(UserError, match=f"no benchmark in {tmp_path}: looked for DIS-VD, .*; pass --data-root"):
        present_benchmarks(tmp_path)
    with pytest.raises(UserError, match=f"no benchmark in {tmp_path}/nowhere: no such folder; pass --data-root"):
        present_benchmarks(tmp_path / "nowhere")


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


def test_a_name_like_no_other_gets_no_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown split of Custom 'nope': choose one of train, val, test"):
        find_pairs(tmp_path, "custom", "nope")


def test_missing_splits_name_the_folders_that_are_there(tmp_path: Path) -> None:
    for name in ("f10", "f2", ".git", *"abcdef"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(NotFound, match="folders there: a, b, c, d, e, f, 2 more; pass --data-root"):
        find_pairs(tmp_path, "custom", "train")


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


def test_what_matches_is_listed_beside_all_that_does_not(tmp_path: Path) -> None:
    tree(tmp_path, "train/im", "train/gt", names="a b x10 x2")
    extra = "im/a.PNG gt/b.bmp im/lonely.jpg im/lonely.png gt/deep/down.png trimap/x2.png trimap/x2.bmp trimap/c.png"
    touch(*(tmp_path / "train" / name for name in extra.split()))
    listing = list_in_layout(tmp_path, DATASETS["Custom"], "train")
    assert names(listing.pairs) == "x2 x10" and listing.images == 5
    files = {
        kind: {
            name: sorted(path.relative_to(tmp_path / "train").as_posix() for path in paths)
            for name, paths in found.items()
        }
        for kind, found in listing.mismatches.items()
    }
    assert files == {
        "no-alpha": {"lonely": ["im/lonely.jpg", "im/lonely.png"]},
        "no-image": {"deep/down": ["gt/deep/down.png"]},
        "image-twice": {"a": ["im/a.PNG", "im/a.jpg"], "lonely": ["im/lonely.jpg", "im/lonely.png"]},
        "alpha-twice": {"b": ["gt/b.bmp", "gt/b.png"]},
        "no-trimap": {"x10": ["im/x10.jpg"]},
        "trimap-twice": {"x2": ["trimap/x2.bmp", "trimap/x2.png"]},
    }
    assert [pair.trimap for pair in listing.pairs] == [None, None]
    assert listing.folders == [(tmp_path / "train/im", tmp_path / "train/gt")]
    assert listing.trimap_folders == [tmp_path / "train/trimap"]


def test_a_sound_listing_has_no_mismatches_and_nothing_to_list_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "train/im", "train/gt")
    listing = list_in_layout(tmp_path, DATASETS["Custom"], "train")
    assert listing.pairs == find_pairs(tmp_path) and not any(listing.mismatches.values())
    with pytest.raises(NotFound):
        list_in_layout(tmp_path, DATASETS["Custom"], "val")
    (tmp_path / "val/im").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no folder .*val/gt"):
        list_in_layout(tmp_path, DATASETS["Custom"], "val")


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "train/im").mkdir(parents=True)
    with pytest.raises(UserError, match=f"no folder {tmp_path}/train/gt for the alphas"):
        find_pairs(tmp_path)
    (tmp_path / "train/gt").mkdir()
    touch(tmp_path / "train/im/.DS_Store")
    with pytest.raises(UserError, match=f"no images in {tmp_path}/train/im"):
        find_pairs(tmp_path)


# ------------------------------------------------------------------------------------------------- names


def fill(folder: Path, files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    touch(*(folder / file for file in files.split()))
    return folder


def test_predictions_are_paired_with_truths_by_name(tmp_path: Path) -> None:
    predictions = fill(tmp_path / "p", "x10.png x2.jpg sub/x1.png other/x2.png x1.PNG .DS_Store notes.txt")
    truths = fill(tmp_path / "t", "x2.png x10.png sub/x1.tif sub/x3.png x3.png")
    assert pair_by_name(predictions, truths) == (
        [
            ("sub/x1", predictions / "sub/x1.png", truths / "sub/x1.tif"),
            ("x2", predictions / "x2.jpg", truths / "x2.png"),
            ("x10", predictions / "x10.png", truths / "x10.png"),
        ],
        ["sub/x3", "x3"],
        ["other/x2", "x1"],
    )


def test_accents_are_one_name_however_they_are_written(tmp_path: Path) -> None:
    predictions = fill(tmp_path / "p", unicodedata.normalize("NFD", "é.png"))
    truths = fill(tmp_path / "t", unicodedata.normalize("NFC", "é.png"))
    assert [name for name, *_ in pair_by_name(predictions, truths).matched] == [unicodedata.normalize("NFC", "é")]


def test_results_of_predict_are_paired_with_truths(tmp_path: Path) -> None:
    ours = "a_alpha.png a_cutout.png a_image-b_c.png s/b_alpha.png s/b_color-00b140.webp"
    predictions = fill(tmp_path / "p", f"{ours} c_cutout.png d_alpha.png d_cutout.png")
    found = pair_by_name(predictions, fill(tmp_path / "t", "a.png s/b.png c.png"))
    assert [(name, path.name) for name, path, _ in found.matched] == [("a", "a_alpha.png"), ("s/b", "b_alpha.png")]
    assert found.missing == ["c"]
    assert found.extra == ["c_cutout", "d_alpha", "d_cutout"]


def test_own_name_comes_before_the_one_predict_gives(tmp_path: Path) -> None:
    found = pair_by_name(fill(tmp_path / "p", "a.png a_alpha.png a_cutout.png"), fill(tmp_path / "t", "a.png"))
    assert [path.name for _, path, _ in found.matched] == ["a.png"] and found.extra == ["a_alpha", "a_cutout"]
    found = pair_by_name(fill(tmp_path / "q", "b_alpha.png"), fill(tmp_path / "u", "b.png b_alpha.png"))
    assert [(name, path.name) for name, path, _ in found.matched] == [("b_alpha", "b_alpha.png")]
    assert found.missing == ["b"]  # one file is never the answer to two truths


@pytest.mark.parametrize(
    ("predictions", "truths", "says"),
    [
        ("a.png", "", "--ground-truth {t}: no images there"),
        ("", "a.png", "--predictions {p}: no images there"),
        ("a.png", None, "--ground-truth {t}: no such folder"),
        (None, "a.png", "--predictions {p}: no such folder"),
        ("a.png a.jpg s/a.bmp", "a.png", r"--predictions {p}: 1 names twice \(a\.(jpg = a\.png|png = a\.jpg)\)"),
        ("a.png", "b.png b.tif", r"--ground-truth {t}: 1 names twice \(b\.(png = b\.tif|tif = b\.png)\)"),
        ("s/a.png", "a.png b.png", r"--predictions {p}: none of its 1 images \(s/a\).*--ground-truth {t} \(a, b\)"),
    ],
)
def test_folders_that_cannot_be_paired_are_named(
    predictions: str | None, truths: str | None, says: str, tmp_path: Path
) -> None:
    for folder, files in (("p", predictions), ("t", truths)):
        if files is not None:
            fill(tmp_path / folder, files)
    with pytest.raises(UserError, match=says.format(p=tmp_path / "p", t=tmp_path / "t")) as caught:
        pair_by_name(tmp_path / "p", tmp_path / "t")
    assert "\n" not in str(caught.value)


def test_truths_are_no_predictions(tmp_path: Path) -> None:
    fill(tmp_path / "t", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "t")
    for predictions in (tmp_path / "t", tmp_path / "x" / ".." / "t", tmp_path / "link"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"--predictions and --ground-truth are the same folder, {tmp_path}/t"):
            pair_by_name(predictions, tmp_path / "t")


def test_files_are_found_by_the_names_they_go_with(tmp_path: Path) -> None:
    folder = fill(tmp_path / "t", "b.png s/a.png unasked.png c_alpha.png")
    found, missing = match_names(["s/a", "c", "b", "a"], folder, "--trimaps")
    assert list(found.items()) == [("s/a", folder / "s/a.png"), ("b", folder / "b.png")]
    assert missing == ["c", "a"]
    fill(tmp_path / "t", "b.tif")
    with pytest.raises(UserError, match=f"--trimaps {folder}: 1 names twice"):
        match_names(["s/a"], folder, "--trimaps")
    with pytest.raises(UserError, match=f"--images {tmp_path}/nowhere: no such folder"):
        match_names(["a"], tmp_path / "nowhere", "--images")


# ------------------------------------------------------------------------------------------------- files


def write_pair(root: Path, name: str, size: tuple[int, int], alpha_size: tuple[int, int] | None = None) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    write_image(root / "im" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    write_image(root / "gt" / f"{name}.png", rng.integers(0, 256, alpha_size or size, dtype=np.uint8))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real photographs at {SHARED}")
def test_real_photographs_are_found() -> None:
    assert len(find_pairs(SHARED / "real", "custom", "train")) == 186
    assert len(find_pairs(SHARED / "real", "custom", "val")) == 33
