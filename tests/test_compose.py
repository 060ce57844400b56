"""tools.compose: composites that are exactly their alpha's, fair and repeatable plans, interruptions, wrong input."""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import utils.composition
from config import ComposeConfig
from tools import compose as script
from utils.compositing import Window, compose, cut
from utils.composition import Recipe, Source, deal, plan_subject, shrink_subject, split_names
from utils.encoding import write_image
from utils.files import CannotWriteError
from utils.foreground import Colours
from utils.images import read_alpha, read_rgb
from utils.pairs import find_pairs
from utils.seeds import seeded_rng
from utils.trimaps import random_trimap, read_trimap

NAMES = ("a", "été 1", "deep/er/c.d", "日本")
HERE = ("--num-workers", 1)  # in this process: quicker for small pictures
PLAIN = ("--solve", "none", *HERE)


@pytest.fixture
def source(tmp_path: Path, make_pair: Callable) -> Path:
    """Folders fg, alpha and bg: four foregrounds of different sizes, ten backgrounds of all shapes."""
    for index, name in enumerate(NAMES):
        rgb, alpha = make_pair(40 + 3 * index, 60 - 5 * index)
        write_image(tmp_path / "fg" / f"{name}.png", rgb)
        write_image(tmp_path / "alpha" / f"{name}.png", alpha)
    rng = np.random.default_rng(0)
    for index in range(10):
        size = rng.integers(20, 200, 2)
        smooth = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), tuple(map(int, size)))
        write_image(tmp_path / "bg" / f"{'parks/' * (index % 2)}{index}.png", smooth)
    return tmp_path


@pytest.fixture
def make(run: Callable, source: Path) -> Callable:
    """`make(*arguments)` composes into the folder S, three composites a foreground."""

    def make(*arguments: Any) -> Any:
        given = ("--foregrounds", source / "fg", "--alphas", source / "alpha", "--backgrounds", source / "bg")
        return run(script.main, *given, "--output", "S", "--per-foreground", 3, *PLAIN, *arguments)

    return make


@pytest.fixture
def refuse(refused: Callable, source: Path) -> Callable:
    """`refuse(*arguments)`: `make` that must be refused; returns the message."""

    def refuse(*arguments: Any) -> str:
        given = ("--foregrounds", source / "fg", "--alphas", source / "alpha", "--backgrounds", source / "bg")
        return refused(script.main, *given, "--output", "S", "--per-foreground", 3, *PLAIN, *arguments)

    return refuse


def contents(folder: str | Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def manifest(folder: str = "S/train") -> dict[str, Any]:
    return json.loads(Path(folder, "manifest.json").read_text())


# ------------------------------------------------------------------------------------------------------- pixels


def test_every_composite_can_be_made_again_from_its_manifest(make: Callable, source: Path) -> None:
    finished = make()
    assert finished.status == 0 and "12 composites of 4 foregrounds to make" in finished.out
    pairs = find_pairs(Path("S"), "custom", "train", trimaps=True)
    made = manifest()["composites"]
    assert {pair.name for pair in pairs} == {f"{name}_{i}" for name in NAMES for i in range(3)} == set(made)
    for pair in pairs:
        entry = made[pair.name]
        foreground, alpha = read_rgb(source / "fg" / entry["foreground"]), read_alpha(source / "alpha" / entry["alpha"])
        background = cut(read_rgb(source / "bg" / entry["background"]), Window(**entry["crop"]), alpha.shape)
        assert np.array_equal(read_alpha(pair.alpha), alpha) and list(alpha.shape) == entry["size"]
        assert np.array_equal(read_rgb(pair.image), compose(foreground, background, alpha))
        expected = random_trimap(alpha, seeded_rng(0, "trimap", pair.name), (3, 25))
        assert np.array_equal(read_trimap(pair.trimap, alpha.shape), expected)
    assert len(contents("S")) == 3 * 12 + 1  # nothing hidden is left
    crops = {tuple(entry["crop"].values()) for entry in made.values()}
    assert len(crops) > 8  # not the same corner each time


def test_processes_change_nothing(make: Callable) -> None:
    make("--test-share", 0.5, "--seed", 2, "--per-foreground", 2)
    alone = contents("S")
    assert (
        make("--test-share", 0.5, "--seed", 2, "--per-foreground", 2, "--output", "P", "--num-workers", 3).status == 0
    )
    assert contents("P") == alone


def test_colours_are_solved_once_a_foreground_and_used(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def solve(rgb: np.ndarray, alpha: np.ndarray, *, method: str) -> Colours:
        calls.append(method)
        assert alpha.dtype == np.float32 and rgb.shape[:2] == alpha.shape
        return Colours(np.full_like(rgb, (250, 0, 250)), rgb)

    monkeypatch.setattr(utils.composition, "estimate_foreground", solve)
    assert make("--solve", "blur-fusion").status == 0
    assert calls == ["blur-fusion"] * 4
    for pair in find_pairs(Path("S")):
        assert (read_rgb(pair.image)[read_alpha(pair.alpha) == 1] == (250, 0, 250)).all()


def test_the_old_background_does_not_bleed_through(make: Callable, source: Path) -> None:
    """A grey subject photographed in front of green: solved, its soft edge is grey again."""
    alpha = np.clip((np.arange(80) - 30) / 20, 0, 1).astype(np.float32)
    alpha = np.rint(np.tile(alpha, (60, 1)) * 255).astype(np.uint8)
    weight = alpha[..., None] / 255
    photograph = np.rint(weight * 120 + (1 - weight) * np.array([0, 255, 0])).astype(np.uint8)
    for name in NAMES:
        (source / "fg" / f"{name}.png").unlink()
    write_image(source / "fg" / "grey.png", photograph)
    write_image(source / "alpha" / "grey.png", alpha)
    for path in (source / "bg").rglob("*.png"):
        write_image(path, np.zeros((90, 90, 3), np.uint8))
    soft = (alpha > 60) & (alpha < 250)
    greens = {}
    for solve in ("none", "blur-fusion"):
        assert make("--solve", solve, "--output", solve).status == 0
        picture = read_rgb(Path(solve, "train/im/grey_0.png"))[soft].astype(int)
        greens[solve] = np.abs(picture[:, 1] - picture[:, 0]).max()
    assert greens["none"] > 50 and greens["blur-fusion"] <= 12


def test_16_bit_alphas_stay_16_bit_and_explain_their_composite(make: Callable, source: Path) -> None:
    alpha = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    write_image(source / "alpha" / "a.png", alpha)
    assert make().status == 0
    for name, depth in (("a", np.uint16), ("日本", np.uint8)):
        assert cv2.imdecode(np.fromfile(f"S/train/gt/{name}_0.png", np.uint8), cv2.IMREAD_UNCHANGED).dtype == depth
    assert np.array_equal(read_alpha(Path("S/train/gt/a_0.png")), alpha / np.float32(65535))


@pytest.mark.parametrize("max_side", [20, 7])
def test_long_foregrounds_are_averaged_down_with_their_alphas(max_side: int, make: Callable, source: Path) -> None:
    assert make("--max-side", max_side, "--image-format", "jpg").status == 0
    for name in NAMES:
        before, after = (read_alpha(path) for path in (source / f"alpha/{name}.png", Path(f"S/train/gt/{name}_1.png")))
        assert max(after.shape) == max_side and abs(after.mean() - before.mean()) < 0.5 / 255 + 1e-3
        assert read_rgb(Path(f"S/train/im/{name}_1.jpg")).shape[:2] == after.shape
    rgb, alpha = read_rgb(source / "fg/a.png"), read_alpha(source / "alpha/a.png")  # 60 x 40
    levels, shown, colours = shrink_subject(rgb, alpha, (10, 15), solved_next=True)
    assert np.abs(colours - rgb.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))).max() <= 0.5 + 1e-6
    assert np.abs(levels / 255 - alpha.reshape(10, 4, 15, 4).mean(axis=(1, 3))).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(shown, levels / np.float32(255))


def test_shrinking_a_cut_out_is_shrinking_its_composites(source: Path) -> None:
    rgb, alpha = read_rgb(source / "fg/a.png"), read_alpha(source / "alpha/a.png")  # 60 x 40
    assert ((alpha > 0) & (alpha < 1)).any() and (alpha == 0).reshape(10, 4, 15, 4).all(axis=(1, 3)).any()
    rgb[alpha == 0] = 0  # as editors write cut-outs
    _, shown, colours = shrink_subject(rgb, alpha, (10, 15), solved_next=False)
    for level in (0, 255):
        large = alpha[..., None] * rgb + (1 - alpha[..., None]) * level
        small = compose(colours, np.full((10, 15, 3), level, np.uint8), shown)
        assert np.abs(small - large.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))).max() <= 1.5
    assert (colours[shown == 0] == 0).all()


@pytest.mark.parametrize("max_side", [32, 21, 5])
def test_a_white_cut_out_stays_white_on_white(max_side: int, run: Callable, tmp_path: Path) -> None:
    """Its transparent pixels are black: they must not darken its edge."""
    y, x = np.mgrid[:128, :128]
    alpha = np.where(np.hypot(y - 63.3, x - 63.8) < 40, 255, 0).astype(np.uint8)
    write_image(tmp_path / "cut/disc.png", np.dstack([alpha] * 4))
    write_image(tmp_path / "white/w.png", np.full((128, 128, 3), 255, np.uint8))
    given = ("--foregrounds", tmp_path / "cut", "--backgrounds", tmp_path / "white", "--per-foreground", 1, *HERE)
    assert run(script.main, *given, "--output", "S", "--max-side", max_side).status == 0
    assert (read_rgb(Path("S/train/im/disc_0.png")) == 255).all()
    soft = read_alpha(Path("S/train/gt/disc_0.png"))
    assert ((soft > 0) & (soft < 1)).any()


def test_jpegs_keep_full_colour_resolution(make: Callable) -> None:
    make("--image-format", "jpg")
    make("--output", "P")
    for pair in find_pairs(Path("S")):
        with Image.open(pair.image) as image:
            assert image.format == "JPEG" and all(layer[1:3] == (1, 1) for layer in image.layer)
        exact = read_rgb(Path("P/train/im") / f"{pair.name}.png").astype(int)
        assert np.abs(read_rgb(pair.image) - exact).mean() < 3


# -------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("count", "backgrounds", "each"), [(7, 10, 3), (50, 9, 4), (12, 5, 5), (3, 100, 20), (40, 7, 6)]
)
def test_backgrounds_are_dealt_evenly_and_never_twice_to_one_foreground(
    count: int, backgrounds: int, each: int
) -> None:
    pack = [f"b{i}" for i in range(backgrounds)]
    hands = deal([f"f{i}" for i in range(count)], pack, each, np.random.default_rng(1))
    assert all(len(hand) == len(set(hand)) == each for hand in hands.values())
    used = Counter(background for hand in hands.values() for background in hand)
    times = [used[background] for background in pack]
    assert max(times) - min(times) <= 1
    if count * each > 2 * backgrounds and each < backgrounds:
        assert len({frozenset(hand) for hand in hands.values()}) > backgrounds // each + 1  # no fixed groups


def test_crops_depend_on_seed_name_and_number_alone(source: Path) -> None:
    recipe = Recipe(seed=0, solve="none", trimap_kernel_px=(3, 25), image_format="png", max_side=None)
    files = Source(source / "fg/a.png", source / "alpha/a.png")
    backgrounds = {f"{i}.png": (500, 700) for i in range(4)}
    planned = [each.window for each in plan_subject("a", files, backgrounds, recipe).composites]
    assert len(set(planned)) == 4
    renamed = {f"other {i}.png": size for i, size in enumerate(backgrounds.values())}
    assert [each.window for each in plan_subject("a", files, renamed, recipe).composites] == planned
    for name, changed in (("b", recipe), ("a", replace(recipe, seed=1))):
        other = [each.window for each in plan_subject(name, files, backgrounds, changed).composites]
        assert not set(other) & set(planned)


def test_lots_do_not_change_when_files_are_added() -> None:
    names = [f"name {i}" for i in range(2000)]
    split, fewer = split_names(names, 0.1, 0, "foreground"), split_names(names[::3], 0.1, 0, "foreground")
    assert sorted(split["train"] + split["test"]) == sorted(names)
    assert set(fewer["test"]) <= set(split["test"]) and set(fewer["train"]) <= set(split["train"])
    assert 150 < len(split["test"]) < 250
    assert split["test"] != split_names(names, 0.1, 1, "foreground")["test"]
    assert set(split["test"]) <= set(split_names(names, 0.2, 0, "foreground")["test"])
    assert split_names(names, 0, 0)["test"] == [] == split_names(names, 1, 0)["train"]


def test_train_and_test_share_no_foreground_and_no_background(make: Callable) -> None:
    finished = make("--test-share", 0.5, "--seed", 2, "--per-foreground", 2)
    assert finished.status == 0
    splits = [manifest(f"S/{split}")["composites"].values() for split in ("train", "test")]
    for key in ("foreground", "background"):
        train, test = ({entry[key] for entry in entries} for entries in splits)
        assert train and test and not train & test
    assert len(find_pairs(Path("S"), split="test", trimaps=True)) == len(splits[1])


@pytest.mark.parametrize(("share", "there", "absent"), [(0, "train", "test"), (1, "test", "train")])
def test_one_split_alone(share: int, there: str, absent: str, make: Callable) -> None:
    assert make("--test-share", share).status == 0
    assert len(find_pairs(Path("S"), split=there)) == 12 and not Path("S", absent).exists()


# ---------------------------------------------------------------------------------------- interruptions, mixtures


def test_interrupted_set_is_continued_and_becomes_the_same(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    make("--output", "whole")
    real, begun = script.make_composites, []

    def interrupted(subject: Any, **options: Any) -> list[str]:
        if begun:
            real(subject._replace(composites=subject.composites[:1]), **options)
            raise KeyboardInterrupt
        begun.append(subject)
        return real(subject, **options)

    with monkeypatch.context() as patch:
        patch.setattr(script, "make_composites", interrupted)
        assert make().status == 130
    assert not Path("S/train/manifest.json").exists() and len(find_pairs(Path("S"))) == 4
    Path("S/train/im/.12-34.tmp").write_bytes(b"half")
    os.unlink("S/train/trimap/a_0.png")  # a composite without all of its files is not there
    assert "seed 0 instead of 1" in make("--seed", 1).err  # an unfinished set is not mixed either
    kept = os.stat("S/train/im/a_1.png")
    finished = make()
    assert finished.status == 0 and "9 composites of 4 foregrounds to make, 3 are there" in finished.out
    assert os.stat("S/train/im/a_1.png").st_ino == kept.st_ino
    os.unlink("S/train/im/.12-34.tmp")
    assert contents("S") == contents("whole")
    before = {path: path.stat().st_mtime_ns for path in Path("S").rglob("*.png")}
    finished = make()
    assert finished.status == 0 and "nothing to make: 12 composites there already" in finished.out
    assert {path: path.stat().st_mtime_ns for path in Path("S").rglob("*.png")} == before


CHANGES = {
    "seed": ("--seed", 1),
    "solve": ("--solve", "blur-fusion"),
    "trimap_kernel_px": ("--trimap-kernel-px", 3, 9),
    "image_format": ("--image-format", "jpg"),
    "max_side": ("--max-side", 30),
    "per_foreground": ("--per-foreground", 2),
    "test_share": ("--test-share", 1),
}


def test_sets_of_other_settings_are_never_mixed(make: Callable, source: Path) -> None:
    for name in NAMES[2:]:  # two foregrounds tell as much
        (source / "fg" / f"{name}.png").unlink()
    make()
    before = contents("S")
    for key, arguments in CHANGES.items():
        finished = make(*arguments)
        assert finished.status == 2 and f"{key} " in finished.err and "--overwrite" in finished.err, key
        assert contents("S") == before
    for key, arguments in CHANGES.items():
        make(*arguments, "--output", f"fresh {key}")
        assert make(*arguments, "--overwrite").status == 0
        assert contents("S") == contents(f"fresh {key}"), key


def test_other_sources_under_the_same_names_are_noticed(make: Callable, source: Path, make_pair: Callable) -> None:
    make()
    before = contents("S")
    retouched = read_alpha(source / "alpha/a.png")
    retouched[:5] = 0
    write_image(source / "alpha/a.png", np.rint(retouched * 255).astype(np.uint8))
    finished = make()
    assert finished.status == 2 and "3 composites made of other foregrounds, alphas or backgrounds" in finished.err
    assert "(im/a_0.png, im/a_1.png, im/a_2.png)" in finished.err  # each once, and no others
    assert contents("S") == before
    assert make("--overwrite").status == 0
    assert np.array_equal(read_alpha(Path("S/train/gt/a_2.png")), retouched)
    rgb, alpha = make_pair(30, 30)
    write_image(source / "fg/龥 last.png", rgb)
    write_image(source / "alpha/龥 last.png", alpha)
    finished = make()  # it comes last in order: the others' backgrounds stay
    assert finished.status == 0 and "3 composites of 1 foreground to make, 12 are there" in finished.out


def test_a_changed_list_of_files_is_told_from_changed_files(make: Callable, source: Path, make_pair: Callable) -> None:
    make()
    before = contents("S")
    rgb, alpha = make_pair(30, 30)
    write_image(source / "fg/0 first.png", rgb)
    write_image(source / "alpha/0 first.png", alpha)
    more = make()
    assert more.status == 2 and "another list of foregrounds or backgrounds (foregrounds 4 instead of 5)" in more.err
    assert "choose another folder" in more.err and "--overwrite" in more.err and ".png" not in more.err
    (source / "fg/0 first.png").unlink()
    (source / "bg/0.png").unlink()
    fewer = make()
    assert fewer.status == 2 and "foregrounds or backgrounds (backgrounds 10 instead of 9)" in fewer.err
    assert contents("S") == before


def test_a_set_whose_manifest_does_not_count_its_files_is_continued(make: Callable, source: Path) -> None:
    make()
    composed = manifest()
    assert composed.pop("files") == {"foregrounds": 4, "backgrounds": 10}
    Path("S/train/manifest.json").write_text(json.dumps(composed))
    assert make().status == 0 and "files" in manifest()


def test_files_of_others_are_left_alone(make: Callable) -> None:
    make()
    write_image(Path("S/train/im/my own.png"), np.zeros((4, 4, 3), np.uint8))
    before = contents("S")
    for arguments in ((), ("--overwrite",), ("--overwrite", "--seed", 1)):
        finished = make(*arguments)
        assert finished.status == 2 and "my own.png" in finished.err
        assert contents("S") == before
    os.unlink("S/train/im/my own.png")
    os.unlink("S/train/manifest.json")
    assert "36 files without a manifest" in make().err
    Path("S/train/manifest.json").write_text("{}")
    assert "no manifest of this program" in make().err


# -------------------------------------------------------------------------------------------------- wrong input


def test_damaged_foregrounds_are_named_and_repaired_later(make: Callable, source: Path) -> None:
    make("--output", "whole")
    truncated, size, headless = (source / path for path in ("fg/a.png", "alpha/été 1.png", "fg/日本.png"))
    intact = {path: path.read_bytes() for path in (truncated, size, headless)}
    truncated.write_bytes(intact[truncated][:-40])
    write_image(size, np.full((9, 9), 255, np.uint8))
    headless.write_bytes(b"no image")
    finished = make()
    assert finished.status == 1
    failed = [line for line in finished.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3 and all(sum(str(path) in line for line in failed) == 1 for path in intact)
    assert "S/train: 3 of 9 composites" in finished.out
    assert set(manifest()["composites"]) == {f"deep/er/c.d_{i}" for i in range(3)}
    assert len(find_pairs(Path("S"), trimaps=True)) == 3
    for path, data in intact.items():
        path.write_bytes(data)
    assert make().status == 0
    assert contents("S") == contents("whole")


def test_damaged_backgrounds_are_named_before_the_start(refuse: Callable, source: Path) -> None:
    assert "--max-pixels" in refuse("--max-pixels", 10)
    for name in ("3.png", "4.png"):
        path = next((source / "bg").rglob(name))
        path.write_bytes(path.read_bytes()[:-40])
    message = refuse()
    assert "2 backgrounds cannot be used" in message and "3.png" in message and "4.png" in message
    (source / "bg/4.png").write_bytes(b"")
    assert "4.png: empty file" in refuse()


def test_files_that_change_while_composing_are_named(
    make: Callable, source: Path, make_pair: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = script.forecast

    def meanwhile(subjects: Any, jobs: Any, recipe: Any) -> str:
        gone, other = (job.subject.composites[0].background for job in jobs[:2])
        (source / "bg" / gone).unlink()
        write_image(source / "bg" / other, np.zeros((7, 9, 3), np.uint8))
        rgb, alpha = make_pair(20, 20)
        write_image(source / "fg/日本.png", rgb)
        write_image(source / "alpha/日本.png", alpha)
        return real(subjects, jobs, recipe)

    monkeypatch.setattr(script, "forecast", meanwhile)
    finished = make()
    assert finished.status == 1
    assert "no such file" in finished.err and "(a_0)" in finished.err
    assert "its size has changed; start again (deep/er/c.d_0)" in finished.err
    assert "日本.png: its size has changed since the start; start again (3 composites)" in finished.err
    assert not {"a_0", "deep/er/c.d_0", "日本_0"} & set(manifest()["composites"])
    assert {pair.name for pair in find_pairs(Path("S"), trimaps=True)} == set(manifest()["composites"])


def test_foregrounds_over_the_pixel_limit_are_not_decoded(make: Callable, source: Path) -> None:
    write_image(source / "fg/a.png", np.zeros((300, 200, 3), np.uint8))
    finished = make("--max-pixels", 50_000)
    assert finished.status == 1 and "fg/a.png: 200x300 is more than 50000 pixels" in finished.err
    assert "S/train: 9 of 12 composites" in finished.out


def test_cut_outs_bring_their_alpha(run: Callable, refused: Callable, source: Path) -> None:
    for name in NAMES:
        level = np.rint(read_alpha(source / f"alpha/{name}.png") * 255).astype(np.uint8)
        write_image(source / f"cut/{name}.png", np.dstack([read_rgb(source / f"fg/{name}.png"), level]))
    given = (script.main, "--foregrounds", source / "cut", "--backgrounds", source / "bg", "--per-foreground", 3, *HERE)
    assert "add --solve none" in refused(*given, "--solve", "multilevel")
    whole = run(*given, "--solve", "none", "--output", "S")
    assert whole.status == 0 and "alpha" not in whole.out
    for pair in find_pairs(Path("S")):
        assert np.array_equal(read_alpha(pair.alpha), read_alpha(source / f"alpha/{pair.name[:-2]}.png"))
    assert manifest()["composites"]["a_0"]["alpha"] is None

    write_image(source / "cut/solid.png", np.full((9, 9, 4), 255, np.uint8))  # a channel, but no matte
    finished = run(*given, "--solve", "none", "--output", "T")
    assert finished.status == 1 and "solid.png: its alpha channel is 255 everywhere" in finished.err
    tile = np.dstack([np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8), np.full((9, 9), 7, np.uint8)])
    write_image(source / "cut/solid.png", tile)  # its colours are no alpha either
    assert "solid.png: its alpha channel is 7 everywhere" in run(*given, "--solve", "none", "--output", "V").err
    write_image(source / "cut/plain.png", np.full((9, 9), 200, np.uint8))
    message = refused(*given, "--solve", "none", "--output", "U")
    assert "1 of 6 have no alpha channel (plain.png)" in message and "--alphas" in message


def test_doubtful_alphas_are_named(make: Callable, source: Path) -> None:
    assert "alpha" not in make("--output", "sound").out
    for name, change in (
        ("a", lambda levels: (levels > 127).astype(np.uint8)),
        ("été 1", lambda levels: 255 - levels),
        ("日本", lambda levels: np.full_like(levels, 255)),
    ):
        path = source / f"alpha/{name}.png"
        write_image(path, change(np.rint(read_alpha(path) * 255).astype(np.uint8)))
    write_image(source / "alpha/deep/er/c.d.png", np.zeros_like(read_alpha(source / "alpha/deep/er/c.d.png"), np.uint8))
    finished = make()
    assert finished.status == 1
    said = [line for line in finished.out.splitlines() if line.startswith("note: 1 alpha ")]
    assert [line.split(": ")[1] for line in said] == ["1 alpha (été 1)", "1 alpha (a)", "1 alpha (日本)"]
    assert "invert" in said[0] and "rescale" in said[1] and "one value" in said[2]
    assert "failed: " in finished.err and "c.d.png: alpha is 0 everywhere" in finished.err
    assert "S/train: 9 of 12 composites" in finished.out and not list(Path("S").rglob("c.d*"))


def test_a_set_without_validation_pictures_says_so(make: Callable) -> None:
    said = "S has no test/: add --test-share 0.1, or a val/ of your own, to train on it"
    assert said in make().out
    Path("S/val").mkdir()
    assert said not in make().out
    both = make("--test-share", 0.5, "--seed", 2, "--per-foreground", 2, "--output", "both")
    assert both.status == 0 and "no test/" not in both.out


def test_photographs_are_solved_and_cut_outs_are_not_unless_something_else_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script, "require_method", lambda method: None)
    unsaid = replace(ComposeConfig(), solve=None)
    assert script.solve_method(unsaid) == "none"
    assert script.solve_method(replace(unsaid, alphas=Path("alphas"))) == "blur-fusion"
    assert script.solve_method(replace(unsaid, alphas=Path("alphas"), solve="none")) == "none"


def test_a_solver_that_is_not_installed_is_said_at_once(refuse: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymatting", None)
    assert "pymatting" in refuse("--solve", "multilevel")


def test_contact_sheet_shows_the_first_composites(make: Callable, refuse: Callable, source: Path) -> None:
    assert "contact sheet sheets/s.png" in make("--contact-sheet", "sheets/s.png").out
    assert min(read_rgb(Path("sheets/s.png")).shape[:2]) > 200
    for inside in ("S/train/im/s.png", source / "fg" / "s.png", source / "bg" / "parks" / "s.png"):
        assert "--contact-sheet" in refuse("--contact-sheet", inside)


def test_contact_sheet_says_why_a_composite_is_not_there(
    make: Callable, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(script, "contact_sheet", lambda tiles, **_: drawn.extend(tiles) or np.zeros((9, 9), np.uint8))
    (source / "fg/a.png").write_bytes((source / "fg/a.png").read_bytes()[:-40])
    assert make("--contact-sheet", "s.png").status == 1
    failed, *others = drawn
    assert failed.caption == "train/a_0" and "not made: " in failed.pictures[0] and "damaged" in failed.pictures[0]
    assert len(others) == 3 and all(len(tile.pictures) == 3 for tile in others)


def test_numbers_and_nouns_agree(make: Callable, source: Path) -> None:
    for name in NAMES[1:]:
        (source / "fg" / f"{name}.png").unlink()
    assert "1 composite of 1 foreground to make;" in make("--per-foreground", 1).out
    (source / "fg/a.png").write_bytes((source / "fg/a.png").read_bytes()[:-40])
    assert "S/train: 0 of 1 composite\n" in make("--per-foreground", 1, "--overwrite").out


def test_a_contact_sheet_that_cannot_be_written_is_said_before_the_work(refuse: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refuse("--contact-sheet", tmp_path / "file" / "s.png")
    assert "--contact-sheet" in message and "is a file" in message


def test_what_failed_is_said_whatever_comes_of_the_contact_sheet(
    make: Callable, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: np.ndarray) -> None:
        raise CannotWriteError(f"{path}: cannot be written (No space left on device); free space")

    (source / "fg/a.png").write_bytes(b"no image")
    monkeypatch.setattr(script, "write_image", full)
    finished = make("--contact-sheet", "s.png")
    assert finished.status == 2 and "No space left" in finished.err
    assert any(line.startswith("failed: ") and "fg/a.png" in line for line in finished.err.splitlines())


def test_a_set_that_cannot_be_removed_is_a_line(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    before = contents("S")
    unlink = Path.unlink

    def read_only(path: Path, missing_ok: bool = False) -> None:
        if "S/train/im" in path.as_posix() and not path.name.startswith("."):
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", read_only)
    finished = make("--overwrite")
    assert finished.status == 2 and "S/train/im/a_0.png: cannot be removed (Permission denied)" in finished.err
    assert contents("S") == before


def test_wrong_use_is_refused(refuse: Callable, source: Path) -> None:
    for output in ("fg", "alpha/deep", "bg/parks/new", "fg/../bg"):
        message = refuse("--output", source / output)
        assert "--output" in message and "lies in it" in message
    (source / "train").symlink_to(source / "fg")
    assert "lies in it" in refuse("--output", source)
    (source / "train").unlink()
    (source / "test").mkdir()
    (source / "alpha").rename(source / "test/alpha")
    assert "test holds" in refuse("--alphas", source / "test/alpha", "--output", source)
    (source / "test/alpha").rename(source / "alpha")
    message = refuse("--per-foreground", 11)
    assert "train/ has only 10 backgrounds" in message and "lower it" in message
    assert "--test-share 0.001" in refuse("--test-share", 0.001)
    assert "same folder" in refuse("--backgrounds", source / "fg")
    assert "no such folder" in refuse("--backgrounds", source / "none")
    (source / "alpha/a.png").rename(source / "alpha/b.png")
    message = refuse()
    assert "1 of 4 foregrounds have none (a)" in message and "--alphas" in message
    (source / "fg/a.jpg").touch()
    assert "a.jpg = a.png" in refuse()
