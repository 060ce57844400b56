"""tools.preview: the pictures that are asked for, in a picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tools import preview
from utils.images import read_alpha, read_rgb
from utils.inference import load_model, predict_alpha
from utils.metrics import mad, sad


@pytest.mark.parametrize("show", ["even", "worst"])
def test_pictures_are_chosen(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show: str
) -> None:
    names = write_pairs(tmp_path / "mine/val", {"a": (60, 90), "b": (50, 40), "c": (64, 64), "d": (30, 80)})
    predictor, errors = load_model(checkpoint), {}
    for name in names:
        alpha = read_alpha(tmp_path / f"mine/val/gt/{name}.png")
        pred_alpha = predict_alpha(predictor, read_rgb(tmp_path / f"mine/val/im/{name}.png"))
        errors[name] = (mad(pred_alpha, alpha), sad(pred_alpha, alpha))
    drawn = []
    save = preview.save_previews
    monkeypatch.setattr(
        preview, "save_previews", lambda path, each, title: (drawn.extend(each), save(path, each, title))
    )
    given = ("--checkpoint", checkpoint, "--dataset", "custom", "--data-root", tmp_path / "mine", "--images", 2)
    finished = run(preview.main, *given, "--show", show, "--output", tmp_path / "p.png")
    assert finished.status == 0 and finished.created == ["p.png"], finished.err
    worst = sorted(names, key=lambda name: errors[name][0], reverse=True)
    assert len({error for error, _ in errors.values()}) == 4 and worst[:2] != ["a", "d"]
    expected = ["a", "d"] if show == "even" else worst[:2]
    assert [each.sad for each in drawn] == pytest.approx([errors[name][1] for name in expected], rel=1e-5)
    assert np.ptp(read_rgb(tmp_path / "p.png")) > 100


def test_wrong_use(refused: Callable, tmp_path: Path, checkpoint: Path) -> None:
    assert "--output" in refused(preview.main, "--output", tmp_path / "p.gif")
    assert "--images" in refused(preview.main, "--images", 0)
    assert "nowhere" in refused(preview.main, "--checkpoint", checkpoint, "--data-root", tmp_path / "nowhere")
