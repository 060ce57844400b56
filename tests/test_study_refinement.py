"""tools.study_refinement as a user meets it, and its pictures."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models import Routing
from models.patches import Patches
from tools import study_refinement
from utils.boundary import edge_distance
from utils.checkpoint import save_checkpoint
from utils.images import read_alpha, read_rgb
from utils.inference import load_model, predict_alpha
from utils.metrics import grad, sad
from utils.recall import Curve
from utils.refinement_plots import Goal, best_window, cut_part, save_part, save_recall

ROUTING = Routing(
    error_threshold=0.14, refine_budget=1.0, max_patches=None, patch_px=16, largest_px=64, batch_px=1 << 14
)


@pytest.fixture
def arguments(tmp_path: Path, checkpoint_state: dict[str, Any], write_pairs: Callable) -> list[Any]:
    """A checkpoint and three pictures of 128 px."""
    save_checkpoint(tmp_path / "best.pth", {**checkpoint_state, "routing": asdict(ROUTING)})
    write_pairs(tmp_path / "mine/val", {"a": (90, 128), "b": (128, 96), "c": (128, 128)})
    return ["--checkpoint", tmp_path / "best.pth", "--data-root", tmp_path / "mine", "--out", tmp_path / "out"]


def with_long_sides(arguments: list[Any], *sides: int) -> list[Any]:
    return [*arguments, "--rival-side", 64, "--long-sides", *sides]


def test_tables_and_pictures(run: Callable, tmp_path: Path, arguments: list[Any]) -> None:
    finished = run(study_refinement.main, *with_long_sides(arguments, 64, 128))
    assert finished.status == 0, finished.err
    names = ["native.png", "part.png", "recall.png", "study.json"]
    assert finished.created == ["out", *(f"out/{name}" for name in names)]
    assert "note" not in finished.out  # no picture was enlarged
    for name in names[:3]:
        assert read_rgb(tmp_path / "out" / name).std() > 10
    content = json.loads((tmp_path / "out/study.json").read_text())
    assert content["images"] == ["a", "b", "c"] and list(content["recall"]) == ["64", "128"]
    assert content["command"].startswith("python -m tools.study_refinement --checkpoint")
    assert {"commit", "torch", "device", "routing"} <= content.keys()

    # At the pictures' own size nothing is resized: what any other script would say.
    predictor = load_model(tmp_path / "best.pth")
    expected: dict[str, list] = {"routed": [], "dense": [], "rival": []}
    for name in ("a", "b", "c"):
        rgb = read_rgb(tmp_path / f"mine/val/im/{name}.png")
        alpha = read_alpha(tmp_path / f"mine/val/gt/{name}.png")
        height, width = alpha.shape
        small = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        everywhere = replace(predictor, routing=ROUTING.everything())
        mattes = {
            "routed": predict_alpha(predictor, rgb),
            "dense": predict_alpha(everywhere, rgb),
            "rival": cv2.resize(predict_alpha(everywhere, small), (width, height), interpolation=cv2.INTER_CUBIC),
        }
        for key, matte in mattes.items():
            matte = matte.clip(0, 1)
            band = edge_distance(alpha) <= 3
            expected[key].append([sad(matte, alpha), sad(matte, alpha, region=band), grad(matte, alpha)])
    found = {row["method"]: [row["SAD"], row["SAD_band3"], row["Grad"]] for row in content["native"]}
    assert {row["long_side"] for row in content["native"]} == {128}
    methods = {
        "refined at 64, enlarged": "rival",
        "refined natively, routed": "routed",
        "refined natively, dense": "dense",
    }
    for method, key in methods.items():
        assert found[method] == pytest.approx(np.mean(expected[key], axis=0), abs=1e-4), method
    sads = content["recall"]["128"]["SAD"]
    assert sads["routed"] == pytest.approx(found["refined natively, routed"][0])
    assert sads["coarse"] == pytest.approx(content["native"][0]["SAD"])


def test_without_a_long_side_above_the_rivals_there_is_one_table(
    run: Callable, tmp_path: Path, arguments: list[Any]
) -> None:
    finished = run(study_refinement.main, *arguments, "--long-sides", 160, "--images", 2)
    assert finished.status == 0, finished.err
    assert finished.created == ["out", "out/recall.png", "out/study.json"]
    content = json.loads((tmp_path / "out/study.json").read_text())
    assert content["native"] == [] and content["images"] == ["a", "c"]
    assert "2 of 2 pictures are smaller than 160 px" in finished.out and content["enlarged"] == {"160": 2}


def test_the_rival_may_be_another_checkpoint(
    run: Callable, tmp_path: Path, arguments: list[Any], checkpoint_state: dict[str, Any], make_network: Callable
) -> None:
    weights = make_network(5).state_dict()
    save_checkpoint(tmp_path / "rival.pth", {**checkpoint_state, "routing": asdict(ROUTING), "model": weights})
    rows = []
    for more in ([], ["--rival", tmp_path / "rival.pth"]):
        finished = run(study_refinement.main, *with_long_sides(arguments, 128), "--images", 1, *more)
        assert finished.status == 0, finished.err
        rows.append(json.loads((tmp_path / "out/study.json").read_text())["native"])
    differ = [row["method"] for row, other in zip(*rows, strict=True) if row != other]
    assert differ == ["refined at 64, enlarged"]


def test_the_picture_to_show_can_be_named(
    run: Callable, tmp_path: Path, arguments: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(study_refinement, "save_part", lambda path, part: shown.append((part.name, part.size)))
    for name, size in (("a", (90, 128)), ("b", (128, 96))):
        finished = run(study_refinement.main, *with_long_sides(arguments, 96, 128), "--crop", name)
        assert finished.status == 0, finished.err
        assert shown[-1] == (name, size)


def test_wrong_use(
    refused: Callable, tmp_path: Path, arguments: list[Any], checkpoint_state: dict[str, Any], make_network: Callable
) -> None:
    assert "--crop nobody" in refused(study_refinement.main, *with_long_sides(arguments, 128), "--crop", "nobody")
    assert "--long-sides" in refused(study_refinement.main, *arguments, "--long-sides", 128, "--crop", "a")
    assert "--long-sides" in refused(study_refinement.main, *arguments, "--long-sides", 10)
    assert "--out" in refused(study_refinement.main, *arguments[:-1], tmp_path / "mine/val/im/out")


def test_a_network_without_refiner_is_refused(
    refused: Callable, tmp_path: Path, arguments: list[Any], checkpoint_state: dict[str, Any], make_network: Callable
) -> None:
    coarse = {"network": {**checkpoint_state["network"], "refiner": False}, "routing": asdict(ROUTING)}
    weights = make_network(refiner=False).state_dict()
    save_checkpoint(tmp_path / "coarse.pth", {**checkpoint_state, **coarse, "model": weights})
    assert "coarse.pth" in refused(study_refinement.main, "--checkpoint", tmp_path / "coarse.pth", *arguments[2:])


def test_resizing_keeps_range_and_mean() -> None:
    alpha = np.zeros((40, 60), np.float32)
    alpha[10:30, 20:50] = 1
    smaller, larger = study_refinement.resize(alpha, 30), study_refinement.resize(alpha, 90)
    assert smaller.shape == (20, 30) and larger.shape == (60, 90)
    assert smaller.mean() == pytest.approx(alpha.mean(), abs=1e-6)
    assert larger.min() == 0 and larger.max() == 1
    assert study_refinement.resize(alpha, 60).tolist() == alpha.tolist()


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("size", [(70, 133), (64, 64), (40, 97)])
def test_the_best_window_is_that_of_a_search(size: tuple[int, int]) -> None:
    values, side = np.random.default_rng(0).normal(size=size), 40
    starts = [sorted({*range(0, length - side + 1, 32), length - side}) for length in size]
    sums = {(top, left): values[top : top + side, left : left + side].sum() for top in starts[0] for left in starts[1]}
    found = best_window(values, side)
    assert (found.top, found.left) == max(sums, key=sums.get)
    assert found.total == pytest.approx(max(sums.values()))


def test_a_part_shows_its_square_pixel_for_pixel(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (200, 320, 3), np.uint8)
    alpha = generator.integers(0, 256, (200, 320)).astype(np.float32) / 255
    patches = [Patches(64, torch.zeros(2, dtype=torch.long), torch.tensor([[0, 64], [128, 256]]))]
    window = best_window(generator.normal(size=alpha.shape), 120)
    mattes = {"first": 1 - alpha, "second": alpha}
    part = cut_part("a", rgb, alpha, mattes, patches, window, 120)
    inside = np.s_[window.top : window.top + 120, window.left : window.left + 120]
    assert (part.rgb == rgb[inside]).all() and (part.mattes["first"] == 1 - alpha[inside]).all()
    scale = 240 / 320
    assert part.overview.shape == (150, 240, 3)
    assert part.outlines.tolist() == [[0, 64 * scale, 64 * scale], [128 * scale, 256 * scale, 64 * scale]]
    assert part.frame == (window.top * scale, window.left * scale, 120 * scale)
    save_part(tmp_path / "part.png", part)
    drawn = read_rgb(tmp_path / "part.png")
    found = cv2.matchTemplate(drawn, np.ascontiguousarray(part.rgb), cv2.TM_SQDIFF)
    assert found.min() < 1e-3 * float((part.rgb.astype(float) ** 2).sum())


def test_what_is_not_refined_is_darker_in_the_overview() -> None:
    rgb, alpha = np.full((128, 128, 3), 200, np.uint8), np.zeros((128, 128), np.float32)
    patches = [Patches(64, torch.zeros(1, dtype=torch.long), torch.tensor([[64, 0]]))]
    overview = cut_part("a", rgb, alpha, {}, patches, best_window(alpha, 64), 64).overview
    assert (overview[64:, :64] == 200).all() and overview[:64].max() < 100 and overview[:, 64:].max() < 100


def test_a_set_that_refinement_makes_worse_is_drawn(tmp_path: Path) -> None:
    curve = Curve(*(np.full(3, value) for value in (np.nan, 0.5, 0.4, np.nan, np.nan)))
    save_recall(tmp_path / "recall.png", {64: {"router": curve}}, {64: (0.4, None)}, {64: Goal(0.95, 0.3)}, "none")
    assert read_rgb(tmp_path / "recall.png").std() > 1


def test_the_square_shown_is_the_one_furthest_ahead_near_the_edge() -> None:
    """An advantage far from the edge, however large, shows no detail."""
    rgb, alpha = np.zeros((700, 1200, 3), np.uint8), np.zeros((700, 1200), np.float32)
    alpha[:, :200] = 1
    native = study_refinement.Native(1200)
    for name, advantage in (("weak", 0.1), ("strong", 0.3), ("middle", 0.2)):
        rival = alpha.copy()
        rival[:, 200:210] = advantage
        rival[:, 600:] = 0.9
        native.show(name, rgb, alpha, {"coarse": rival, "rival": rival, "routed": alpha}, [])
    assert native.part.name == "strong"
    assert native.part.advantage_px == pytest.approx(512 * 10 * 0.3, rel=1e-5)
