"""tools.study_cost as a user meets it."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from models import Refiner
from tools import study_cost
from utils.crops import to_crops
from utils.images import read_alpha, read_rgb
from utils.inference import load_model, predict
from utils.metrics import sad
from utils.optim import count_parameters
from utils.synthetic import write_embedded


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many training pictures as a step takes, and two held-out ones."""
    root = tmp_path_factory.mktemp("pictures")
    write_embedded(root, train=study_cost.BATCH, val=2, long_side=(72, 96), workers=1)
    return root


@pytest.fixture
def arguments(checkpoint: Path, pictures: Path) -> list[Any]:
    return ["--checkpoint", checkpoint, "--data-root", pictures, "--device", "cpu", "--crop-px", 16]


def test_every_candidate_is_trained_and_scored(
    run: Callable, tmp_path: Path, arguments: list[Any], checkpoint: Path, pictures: Path
) -> None:
    before = checkpoint.read_bytes()
    own = ["--candidates", "8x2", "4x1", "--steps", 2, "--learning-rate", 0.5, "--out", tmp_path / "out"]
    finished = run(study_cost.main, *arguments, *own)
    assert finished.status == 0, finished.err
    assert finished.created == ["out", "out/study_cost.json"] and checkpoint.read_bytes() == before
    content = json.loads((tmp_path / "out/study_cost.json").read_text())
    assert {"command", "commit", "torch", "device"} <= content.keys()
    assert content["command"].startswith("python -m tools.study_cost --checkpoint")
    assert "2 held-out pictures, 2 steps of 8" in content["about"]
    rows = {row["channels x blocks"]: row for row in content["rows"]}
    assert list(rows) == ["none", "8x2", "4x1"] and all(name in finished.out for name in rows)
    for name, shape in (("8x2", (8, 2)), ("4x1", (4, 1))):
        refiner, row = Refiner(*shape), rows[name]
        assert (row["halo px"], row["parameters"]) == (refiner.halo_px, count_parameters(refiner))
        # Its residual is 0 when it is born.
        assert row["SAD"] != rows["none"]["SAD"], "nothing was learnt"
    assert rows["8x2"]["GFLOP at 1024"] > rows["4x1"]["GFLOP at 1024"] > rows["none"]["GFLOP at 1024"] == 0

    # Without a refiner: the coarse stage's alpha, enlarged.
    predictor, sads = load_model(checkpoint), []
    for image in sorted((pictures / "val/im").iterdir()):
        rgb, alpha = read_rgb(image), read_alpha(pictures / f"val/gt/{image.stem}.png")
        coarse = study_cost.enlarge(predict(predictor, rgb).coarse_logits, alpha.shape)
        sads.append(sad(study_cost.to_alpha(coarse), alpha))
    assert rows["none"]["SAD"] == pytest.approx(sum(sads) / len(sads), abs=1e-4)


def test_training_goes_on_over_epochs(run: Callable, monkeypatch: pytest.MonkeyPatch, arguments: list[Any]) -> None:
    """A pass over these pictures is one step, and each step sees other squares of them."""
    seen = []

    def recorded(crops: Any, *others: Any) -> Any:
        seen.append(crops.rgb)
        return to_crops(crops, *others)

    monkeypatch.setattr(study_cost, "to_crops", recorded)
    finished = run(study_cost.main, *arguments, "--candidates", "4x1", "--steps", 3, "--images", 1)
    assert finished.status == 0, finished.err
    assert "1 held-out pictures, 3 steps of 8" in finished.out and finished.created == []
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])


def test_every_step_has_as_many_pictures() -> None:
    """What is left of an epoch is not a step; and each epoch has an order of its own."""
    keys = [[key.tolist() for key in batch] for batch in islice(study_cost.batches(Keys()), 5)]
    epochs = [epoch for epoch, _ in keys]
    assert epochs == [[epoch] * study_cost.BATCH for epoch in (0, 0, 1, 1, 2)]
    orders = [keys[0][1] + keys[1][1], keys[2][1] + keys[3][1]]
    assert all(len({*order}) == 2 * study_cost.BATCH for order in orders) and orders[0] != orders[1]


class Keys(torch.utils.data.Dataset):
    """Gives back what it is asked for."""

    def __len__(self) -> int:
        return 2 * study_cost.BATCH + 3

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def test_wrong_use(refused: Callable, tmp_path: Path, arguments: list[Any]) -> None:
    write_embedded(tmp_path / "few", train=study_cost.BATCH - 1, val=1, long_side=(48, 64), workers=1)
    line = refused(study_cost.main, *arguments[:2], "--data-root", tmp_path / "few", "--out", tmp_path / "out")
    assert f"--data-root {tmp_path / 'few'}" in line and "7 of the 8" in line
    assert "--data-root" in refused(study_cost.main, *arguments[:2], "--data-root", tmp_path / "nowhere")
    assert "--candidates 6x1" in refused(study_cost.main, *arguments, "--candidates", "6x1")
    assert "--crop-px 7" in refused(study_cost.main, *arguments, "--crop-px", 7)
    assert "nothing.pth" in refused(study_cost.main, "--checkpoint", tmp_path / "nothing.pth", *arguments[2:])
