"""utils.jobs: which files are predicted, and what their results are called."""

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.jobs import Plan, plan_jobs
from utils.renderings import parse_renderings

RENDERINGS = parse_renderings(["alpha", "cutout"])


def fill(folder: Path, names: str) -> Path:
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def planned(*inputs: Path | str, output: Path, format: str = "png") -> Plan:
    return plan_jobs([Path(each) for each in inputs], output, RENDERINGS, format)


def names(found: Plan, output: Path, label: str = "alpha") -> dict[str, str]:
    return {job.source.name: job.targets[label].relative_to(output).as_posix() for job in found.jobs}


def test_folders_are_mirrored(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "b.png x/y/c.jpg x/.hidden.png notes.txt")
    found = planned(photos, output=tmp_path / "out")
    assert names(found, tmp_path / "out") == {"b.png": "b_alpha.png", "c.jpg": "x/y/c_alpha.png"}


def test_files_of_one_stem_keep_their_suffix_in_the_name(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "a.jpg a.png a.b.png")
    found = names(planned(photos, output=tmp_path / "out"), tmp_path / "out")
    assert found == {"a.jpg": "a_jpg_alpha.png", "a.png": "a_png_alpha.png", "a.b.png": "a.b_alpha.png"}


def test_the_suffix_follows_the_format(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "a.jpg")
    for format, suffix in (("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg")):
        found = planned(photos, output=tmp_path / "out", format=format)
        assert names(found, tmp_path / "out") == {"a.jpg": f"a_alpha{suffix}"}


@pytest.mark.parametrize(
    "photos", ["a.jpg a.png a_jpg.bmp", "a.jpg a.png a_jpg.bmp a_jpg_bmp.tif", "b_alpha.png b.png"]
)
def test_no_two_results_are_the_same_file(tmp_path: Path, photos: str) -> None:
    found = planned(fill(tmp_path / "photos", photos), output=tmp_path / "out")
    targets = {path for job in found.jobs for path in job.targets.values()}
    assert len(targets) == 2 * len(photos.split())


def test_a_pattern_is_mirrored_from_its_first_wildcard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "photos", "a.jpg s/b.jpg s/t/c.png s/d.txt s/film.mp4")
    found = planned(tmp_path / "photos" / "**" / "*.*", output=tmp_path / "out")
    assert names(found, tmp_path / "out") == {
        "a.jpg": "a_alpha.png", "b.jpg": "s/b_alpha.png", "c.png": "s/t/c_alpha.png", "film.mp4": "s/film_alpha.mp4",
    }  # fmt: skip
    assert len(planned(tmp_path / "photos" / "s*" / "*.jpg", output=tmp_path / "out").jobs) == 1
    monkeypatch.chdir(tmp_path)
    assert names(planned("photos/[ab].jpg", output=Path("out")), Path("out")) == {"a.jpg": "a_alpha.png"}
    with pytest.raises(UserError, match="pattern"):
        planned(tmp_path / "photos" / "*.webp", output=tmp_path / "out")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "a[1].jpg a1.jpg")
    assert names(planned(photos / "a[1].jpg", output=tmp_path / "out"), tmp_path / "out") == {
        "a[1].jpg": "a[1]_alpha.png"
    }


@pytest.mark.parametrize("name", ["film", "film.v2"])
def test_videos_have_videos_or_folders_of_frames(tmp_path: Path, name: str) -> None:
    film = fill(tmp_path, f"{name}.MOV") / f"{name}.MOV"
    (job,) = planned(film, output=tmp_path / "out", format="webp").jobs
    assert job.is_video
    assert [path.name for path in job.targets.values()] == [f"{name}_alpha.mp4", f"{name}_cutout"]
    assert job.missing == job.targets
    frames = tmp_path / "out" / f"{name}_cutout"
    fill(frames, "000001.png 000003.png .DS_Store")
    assert list(job.missing) == ["alpha", "cutout"], "a frame was deleted"
    fill(frames, "000002.png")
    assert list(job.missing) == ["alpha"]


def test_frames_take_no_other_results_place(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "film_cutout/a.png b.png")
    film = fill(tmp_path, "film.mp4") / "film.mp4"
    with pytest.raises(UserError, match=r"film_cutout is to be a folder of frames"):
        planned(photos, film, output=tmp_path / "out")
    fill(tmp_path / "out" / "film_cutout", "mine.txt")
    with pytest.raises(UserError, match=r"film_cutout is to be a folder of frames"):
        planned(film, output=tmp_path / "out")


def test_one_file_written_in_two_ways_is_one(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "a.png")
    assert len(planned(photos / "a.png", photos / ".." / "photos" / "a.png", output=tmp_path / "out").jobs) == 1


def test_a_folder_in_the_place_of_a_picture_is_no_result(tmp_path: Path) -> None:
    (job,) = planned(fill(tmp_path, "a.png") / "a.png", output=tmp_path / "out").jobs
    job.targets["alpha"].mkdir(parents=True)
    assert "alpha" in job.missing


def test_what_a_folder_holds_besides_is_told(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", "a.png b.heic c.mp4 d.mp4")
    film, other = planned(photos, output=tmp_path / "out").notes[0], planned(photos, output=tmp_path / "out").notes[1]
    assert "2 videos" in film and "c.mp4" in film and "1 file" in other and "b.heic" in other
    with pytest.raises(UserError, match=r"no images there .*b\.heic"):
        planned(fill(tmp_path / "phone", "b.heic"), output=tmp_path / "out")


def test_results_are_no_inputs(tmp_path: Path) -> None:
    fill(tmp_path, "a.png out/a_alpha.png")
    assert names(planned(tmp_path, output=tmp_path / "out"), tmp_path / "out") == {"a.png": "a_alpha.png"}
    found = planned(tmp_path / "**" / "*.png", output=tmp_path / "out")
    assert names(found, tmp_path / "out") == {"a.png": "a_alpha.png"}
    with pytest.raises(UserError, match="is or holds the input folder"):
        planned(tmp_path / "out", output=tmp_path / "out")
    with pytest.raises(UserError, match="one of the inputs"):
        planned(tmp_path / "a.png", tmp_path / "out" / "a_alpha.png", output=tmp_path / "out")


def test_inputs_of_one_name_from_two_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "p/a.png q/a.png")
    with pytest.raises(UserError, match="different folders"):
        planned(tmp_path / "p", tmp_path / "q", output=tmp_path / "out")
    assert len(planned(tmp_path / "p", tmp_path / "p" / "a.png", output=tmp_path / "out").jobs) == 1
