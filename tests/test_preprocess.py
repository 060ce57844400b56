"""preprocess_dis5k.py: the flat tree, made once, whole, and checked."""

import os
import shutil
from pathlib import Path

import pytest

import preprocess_dis5k
from utils.errors import UserError, run_script
from utils.pairs import find_benchmark, find_pairs
from utils.preprocess import flatten_dis5k

SETS = ("DIS-TR", "DIS-VD", "DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4")
COUNTS = {"train": 2, "val": 2, "test": 8} | {f"test/DIS-TE{i}": 2 for i in (1, 2, 3, 4)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """DIS5K as published; the training set in category folders. Contents are not decoded, so any bytes do."""
    root = tmp_path / "DIS5K"
    for split in SETS:
        for name in ("1#Bag#1", "2#Net#2"):
            category = f"{name[2:5]}/" if split == "DIS-TR" else ""
            for folder, suffix in (("im", ".jpg"), ("gt", ".png")):
                path = root / split / folder / f"{category}{name}#{split}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{split} {folder} {name}".encode())
    return root


def files(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, time and inode of every file below a folder."""
    found = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {p.relative_to(root).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in found}


@pytest.mark.parametrize("link", [False, True])
def test_flat_tree_holds_every_pair(link: bool, source: Path, tmp_path: Path) -> None:
    before = files(source)
    target = tmp_path / "new" / "DIS5K_Flat"
    result = flatten_dis5k(source, target, link=link)
    assert result.pairs == COUNTS and result.made == 40 and result.kept == 0 and result.failed == []
    assert files(source) == before
    made = files(target)
    assert made["train/im/1#Bag#1#DIS-TR.jpg"][0] == b"DIS-TR im 1#Bag#1"
    assert (
        made["test/gt/2#Net#2#DIS-TE3.png"][0]
        == b"DIS-TE3 gt 2#Net#2"
        == made["test/DIS-TE3/gt/2#Net#2#DIS-TE3.png"][0]
    )
    assert len(made) == 40
    source_inodes = {inode for _, _, inode in before.values()}
    assert all((inode in source_inodes) == link for _, _, inode in made.values())
    # What the other scripts will ask for.
    assert [len(find_pairs(target, "DIS5K", split)) for split in ("train", "val", "test")] == [2, 2, 8]
    assert len(find_benchmark(target, "DIS-TE2")) == 2
    assert len(find_pairs(source, "DIS5K", "train")) == 2


def test_pooled_copies_take_no_disk_space(source: Path, tmp_path: Path) -> None:
    flatten_dis5k(source, tmp_path / "flat")
    made = files(tmp_path / "flat")
    assert made["test/im/1#Bag#1#DIS-TE1.jpg"][2] == made["test/DIS-TE1/im/1#Bag#1#DIS-TE1.jpg"][2]


@pytest.mark.parametrize("link", [False, True])
def test_second_run_changes_nothing(link: bool, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten_dis5k(source, target, link=link)
    before = files(target)
    result = flatten_dis5k(source, target, link=link)
    assert result.pairs == COUNTS and result.made == 0 and result.kept == 40
    assert files(target) == before


@pytest.mark.parametrize("link", [False, True])
def test_interrupted_run_is_completed(link: bool, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten_dis5k(source, target, link=link)
    before = files(target)
    half = target / "val/im/1#Bag#1#DIS-VD.jpg"
    half.unlink()
    half.write_bytes(b"half")
    half.with_name(f".{half.name}.tmp").write_bytes(b"of a killed run")
    shutil.rmtree(target / "test/DIS-TE4")
    result = flatten_dis5k(source, target, link=link)
    assert result.pairs == COUNTS and result.made == 5 and result.kept == 35
    assert {name: content for name, (content, *_) in files(target).items()} == {
        name: content for name, (content, *_) in before.items()
    }


def test_changed_source_file_is_copied_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten_dis5k(source, target)
    changed = source / "DIS-TE1/gt/1#Bag#1#DIS-TE1.png"
    changed.write_bytes(b"a better mask")
    assert flatten_dis5k(source, target).made == 2
    for place in ("test", "test/DIS-TE1"):
        assert (target / place / "gt" / changed.name).read_bytes() == b"a better mask"


def test_failed_copies_are_named_and_leave_nothing_half(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shutil.copy2

    def failing(file: Path, path: Path) -> None:
        if Path(file).name == "1#Bag#1#DIS-VD.jpg":
            Path(path).write_bytes(b"ha")
            raise OSError(28, "No space left on device")
        real(file, path)

    monkeypatch.setattr(shutil, "copy2", failing)
    monkeypatch.setattr("sys.argv", ["x", "--source", str(source), "--target", str(tmp_path / "flat")])
    assert preprocess_dis5k.main() == 1
    printed = capsys.readouterr().err
    assert f"failed: {source}/DIS-VD/im/1#Bag#1#DIS-VD.jpg: No space left on device" in printed
    assert os.listdir(tmp_path / "flat/val/im") == ["2#Net#2#DIS-VD.jpg"]


@pytest.mark.parametrize("missing", ["", "DIS-TR", "DIS-TE4", "DIS-VD/gt"])
def test_wrong_source_is_refused_before_anything_is_made(missing: str, source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / missing)
    with pytest.raises(UserError, match=missing.split("/")[0] or "DIS-TR") as caught:
        flatten_dis5k(source, tmp_path / "flat")
    assert "--source" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "flat").exists()


def test_flat_tree_is_no_source(source: Path, tmp_path: Path) -> None:
    flatten_dis5k(source, tmp_path / "flat")
    with pytest.raises(UserError, match="no DIS5K DIS-TR images"):
        flatten_dis5k(tmp_path / "flat", tmp_path / "again")


@pytest.mark.parametrize("target", ["DIS5K", "DIS5K/flat", ".", "DIS5K/../DIS5K/DIS-TR"])
def test_overlapping_folders_are_refused(target: str, source: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"--target .* overlap"):
        flatten_dis5k(source, tmp_path / target)
    assert files(tmp_path) == before


def test_link_to_the_source_counts_as_the_source(source: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    with pytest.raises(UserError, match="overlap"):
        flatten_dis5k(source, tmp_path / "alias")


def test_names_that_would_collide_are_refused(source: Path, tmp_path: Path) -> None:
    for folder, suffix in (("im", ".jpg"), ("gt", ".png")):
        (source / "DIS-TE1" / folder / f"same{suffix}").touch()
        (source / "DIS-TE2" / folder / f"same{suffix}").touch()
    with pytest.raises(UserError, match=r"--source .*same"):
        flatten_dis5k(source, tmp_path / "flat")
    assert not (tmp_path / "flat").exists()


def test_foreign_files_in_the_target_are_found_at_the_end(source: Path, tmp_path: Path) -> None:
    for folder, suffix in (("im", ".jpg"), ("gt", ".png")):
        path = tmp_path / "flat/val" / folder / f"old{suffix}"
        path.parent.mkdir(parents=True)
        path.touch()
    with pytest.raises(UserError, match=r"--target .*2 files in val are not in the source \(old"):
        flatten_dis5k(source, tmp_path / "flat")


def test_script_prints_counts_and_exits_with_the_right_status(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "flat"
    monkeypatch.setattr("sys.argv", ["x", "--source", str(source), "--target", str(target)])
    with pytest.raises(SystemExit) as stop:
        run_script(preprocess_dis5k.main)
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{target / 'test'}: 8 pairs" in lines and lines[-1] == "40 files made, 0 were there"

    monkeypatch.setattr("sys.argv", ["x", "--source", str(tmp_path / "gone"), "--target", str(target)])
    with pytest.raises(SystemExit) as stop:
        run_script(preprocess_dis5k.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and str(tmp_path / "gone") in error[0] and "--source" in error[0]
