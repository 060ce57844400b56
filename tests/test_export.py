"""export_inference.py: what it writes computes what the checkpoint does, or it writes nothing; no file is lost."""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import eval as eval_script
import export_inference
from config import PRESETS
from utils import onnx_export, onnx_photograph
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.files import to_json
from utils.inference import Predictor, load_model
from utils.model_card import describe_file


@pytest.fixture
def picture(make_pair: Callable, tmp_path: Path) -> Path:
    """A photograph larger than the coarse stage's input."""
    path = tmp_path / "a.png"
    Image.fromarray(make_pair(100, 190)[0]).save(path)
    return path


@pytest.fixture
def export(run: Callable, checkpoint: Path, picture: Path) -> Callable:
    """`export(*arguments)` runs export_inference.py on the nano checkpoint, or on --checkpoint."""

    def export(*arguments: Any) -> Any:
        return run(export_inference.main, "--checkpoint", checkpoint, "--images", picture, *arguments)

    return export


def names(folder: Path) -> list[str]:
    """All files of a folder, hidden ones included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------ what it says


def test_an_export_says_what_it_did(export: Callable) -> None:
    finished = export("--output", "new/m.safetensors")
    assert finished.status == 0, finished.err
    assert "compared on 1 picture" in finished.out and "difference" in finished.out and "MB" in finished.out
    assert names(Path("new")) == ["m.safetensors"]
    card = load_checkpoint(Path("new/m.safetensors"))["card"]
    assert card["weights"] == "float16" and {"commit", "date", "torch", "timm"} <= card["exported"].keys()
    assert "exported" in describe_file(Path("new/m.safetensors"))


def test_without_photographs_it_draws_some(run: Callable, checkpoint: Path) -> None:
    finished = run(export_inference.main, "--checkpoint", checkpoint, "--output", "m.pth")
    assert finished.status == 0, finished.err
    assert "compared on 3 pictures" in finished.out
    sizes = [rgb.shape[:2] for rgb in export_inference.embedded_pictures(64)]
    assert max(sizes[0]) > 64 > max(sizes[1]), "the coarse stage shrinks one and enlarges another"


def test_scores_of_eval_come_into_the_card(
    run: Callable, export: Callable, checkpoint: Path, write_pairs: Callable, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "data" / "test", {"a": (40, 50), "b": (30, 20)})
    scored = ("--data-root", tmp_path / "data", "--benchmarks", "Custom", "--metrics", "SAD", "--num-workers", 0)
    assert run(eval_script.main, "--checkpoint", checkpoint, *scored, "--out", "s").status == 0
    finished = export("--output", "m.pth", "--scores", "s/metrics.json", "--licence", "CC BY 4.0")
    assert finished.status == 0, finished.err
    card = load_checkpoint(Path("m.pth"))["card"]
    expected = json.loads(Path("s/metrics.json").read_text())["Custom"]
    assert card["scores"][0]["metrics"] == expected["metrics"] and card["scores"][0]["images"] == 2
    text = describe_file(Path("m.pth"))
    assert "Custom, 2 images: SAD" in text and "CC BY 4.0" in text
    assert str(tmp_path) not in text
    # Of the export they are not: it is another file.
    finished = run(export_inference.main, "--checkpoint", "m.pth", "--output", "n.pth", "--scores", "s/metrics.json")
    assert finished.status == 2 and "sha256" in finished.err and not Path("n.pth").exists()


def test_no_folder_of_the_trainings_is_published(
    export: Callable, checkpoint_state: dict[str, Any], tmp_path: Path
) -> None:
    secret = "/home/me/secret"
    config = to_json(asdict(PRESETS["tsr"]()))
    config["data"] |= {"data_root": f"{secret}/data", "dataset": "custom"}
    config["run"] |= {"run_dir": f"{secret}/run", "init_from": f"{secret}/start.pth"}
    config["model"] |= {"backbone_weights": f"{secret}/swin.pth"}
    config["teacher"] |= {"teacher_checkpoint": f"{secret}/teacher.pth"}
    config["composition"] |= {"backgrounds": f"{secret}/b", "foregrounds": f"{secret}/f"}
    save_checkpoint(tmp_path / "best.pth", {**checkpoint_state, "config": config})
    finished = export("--checkpoint", tmp_path / "best.pth", "--output", "m.pth", "m.safetensors")
    assert finished.status == 0, finished.err
    for name in ("m.pth", "m.safetensors"):
        assert b"custom" in Path(name).read_bytes() and b"secret" not in Path(name).read_bytes()
        data = load_checkpoint(Path(name))["card"]["data"]
        assert len(data) == 4 and {each["licence"] for each in data} == {"unknown"}


# ------------------------------------------------------------------------------------------------ all or nothing


@pytest.mark.parametrize("wrong", [{"mean": (0.4, 0.4, 0.4)}, {"std": (1.0, 1.0, 1.0)}, {"keep_aspect": True}])
def test_wrong_preprocessing_fails_an_export(
    export: Callable, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    def save(path: Path, state: dict[str, Any]) -> None:
        save_checkpoint(path, {**state, "preprocess": {**state["preprocess"], **wrong}})

    monkeypatch.setattr(export_inference, "save_checkpoint", save)
    finished = export("--output", "m.pth", "--dtype", "float32")
    assert finished.status == 2 and "error: m.pth: not written" in finished.err
    assert names(Path()) == []


def test_of_several_files_all_appear_or_none(export: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export_inference.LARGEST_DIFFERENCE, ".safetensors", {"float16": 1e-9})
    finished = export("--output", "m.pth", "x/m.safetensors")
    assert finished.status == 2 and "x/m.safetensors" in finished.err and "--dtype float32" in finished.err
    assert names(Path()) == ["x"]


def test_a_weight_that_float16_cannot_hold_fails_an_export(
    export: Callable, checkpoint_state: dict[str, Any], tmp_path: Path
) -> None:
    """What comes out then is not even a number, and no difference."""
    weights = dict(checkpoint_state["model"])
    weights["student.bridge.0.weight"] = weights["student.bridge.0.weight"] * 1e7  # a norm follows
    save_checkpoint(tmp_path / "best.pth", {**checkpoint_state, "model": weights})
    finished = export("--checkpoint", tmp_path / "best.pth", "--output", "m.pth")
    assert finished.status == 2 and "nan" in finished.err and "--dtype float32" in finished.err
    assert names(Path()) == []
    assert export("--checkpoint", tmp_path / "best.pth", "--output", "m.pth", "--dtype", "float32").status == 0


def test_float32_of_float16_is_float32(export: Callable) -> None:
    assert export("--output", "half.pth").status == 0
    assert export("--checkpoint", "half.pth", "--output", "whole.pth", "--dtype", "float32").status == 0
    weights = torch.load("whole.pth", weights_only=True)["model"]
    assert {each.dtype for each in weights.values()} == {torch.float32}


def test_what_a_killed_export_left_is_removed_later(export: Callable) -> None:
    nobody = 2**22 + 1  # more than the number of any process
    new, old = Path(f".{nobody}-1.tmp"), Path(f".{nobody}-2.tmp")
    for folder in (new, old):
        folder.mkdir()
        (folder / "m.pth").touch()
    an_hour_ago = time.time() - 3600
    for path in (old / "m.pth", old):
        os.utime(path, (an_hour_ago, an_hour_ago))
    assert export("--output", "m.pth").status == 0
    assert names(Path()) == [f"{new}", f"{new}/m.pth", "m.pth"]


# ------------------------------------------------------------------------------------------------ nothing is lost


def test_wrong_pictures_stop_an_export(refused: Callable[..., str], checkpoint: Path) -> None:
    assert "nowhere.png" in refused(export_inference.main, "--checkpoint", checkpoint, "--images", "nowhere.png")


def test_an_export_does_not_replace_its_source(export: Callable, tmp_path: Path, checkpoint: Path) -> None:
    """Even if it is an export itself."""
    assert export("--output", tmp_path / "m.pth", "--dtype", "float32").status == 0
    before = (tmp_path / "m.pth").read_bytes()
    finished = export("--checkpoint", tmp_path / "m.pth", "--output", tmp_path / "m.pth")
    assert finished.status == 2 and "--output" in finished.err and "itself" in finished.err
    assert (tmp_path / "m.pth").read_bytes() == before


def test_an_export_replaces_exports_only(
    refused: Callable[..., str], export: Callable, checkpoint: Path, checkpoint_state: dict[str, Any], tmp_path: Path
) -> None:
    best, last, notes = tmp_path / "best_of_another_run.pth", tmp_path / "last.pth", tmp_path / "notes.pth"
    save_checkpoint(best, {**checkpoint_state, "card": {"preset": "demo"}})
    save_checkpoint(last, {**checkpoint_state, "training": {"step": 3}, "position": {}})
    notes.write_text("mine")
    pages = [tmp_path / "m.onnx", tmp_path / "n.coarse.onnx"]
    for page in pages:
        page.write_text("somebody's")
    folder = tmp_path / "folder.pth"
    folder.mkdir()
    outputs = [best, last, notes, folder, tmp_path / "m.onnx", tmp_path / "n.onnx"]
    before = {path: path.read_bytes() for path in (best, last, notes, *pages)}
    for path in outputs:
        line = refused(export_inference.main, "--checkpoint", checkpoint, "--output", tmp_path / "new.pth", path)
        assert "not an export" in line
    assert {path: path.read_bytes() for path in before} == before
    for dtype in ("float32", "float16"):
        assert export("--output", "m.pth", "--dtype", dtype).status == 0
    assert Path("m.pth").stat().st_size < 0.6 * checkpoint.stat().st_size


def test_two_outputs_in_one_place_are_refused(refused: Callable[..., str], checkpoint: Path) -> None:
    common = ("--checkpoint", checkpoint, "--output")
    assert "m.pth would be written twice" in refused(export_inference.main, *common, "m.pth", "m.pth")
    assert "m.coarse.onnx" in refused(export_inference.main, *common, "m.onnx", "m.coarse.onnx")
    assert ".bin" in refused(export_inference.main, *common, "m.bin")


def test_an_export_is_not_exported_from_onnx(refused: Callable[..., str]) -> None:
    assert "m.onnx is an export" in refused(export_inference.main, "--checkpoint", "m.onnx", "--output", "n.pth")


def test_a_checkpoint_that_describes_itself_with_tensors_is_refused(
    refused: Callable[..., str], checkpoint_state: dict[str, Any], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a.pth", {**checkpoint_state, "config": {"data": torch.ones(3)}})
    assert "description" in refused(export_inference.main, "--checkpoint", tmp_path / "a.pth", "--output", "m.pth")


# ------------------------------------------------------------------------------------------------ ONNX


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> dict[str, Any]:
    """Coarse stage and refiner of the nano network in ONNX, converted once: it takes seconds."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    network, dtype = load_model(checkpoint).network, torch.float32
    coarse, refiner = (
        onnx_export._coarse_model(network.student, dtype),
        onnx_export._refiner_model(network.refiner, dtype),
    )
    return {"coarse": coarse, "refiner": refiner}


@pytest.fixture
def ready(converted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Exports to ONNX take copies of these models."""
    models = copy.deepcopy(converted)
    monkeypatch.setattr(onnx_export, "_coarse_model", lambda *_: models["coarse"])
    monkeypatch.setattr(onnx_export, "_refiner_model", lambda *_: models["refiner"])
    return models


@pytest.mark.parametrize("wrong", ["mean", "size", "BGR", "no antialias"])
def test_wrong_preprocessing_fails_an_onnx_export(
    export: Callable, ready: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """The description is right: it is the graph that computes something else."""
    from onnx import numpy_helper

    changes = {"mean": {"mean": (0.4, 0.4, 0.4)}, "size": {"image_size": 96}}.get(wrong, {})
    if wrong == "no antialias":
        plain = onnx_photograph.WEIGHTS.replace("reach = Max(scale, one)", "reach = Max(one, one)")
        assert plain != onnx_photograph.WEIGHTS
        monkeypatch.setattr(onnx_photograph, "WEIGHTS", plain)
    if wrong == "BGR":
        (first,) = (each for each in ready["coarse"].graph.initializer if "patch_embed.proj.weight" in each.name)
        first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first)[:, ::-1].copy(), first.name))

    def wrongly(predictor: Predictor, path: Path, **rest: Any) -> list[Path]:
        preprocess = replace(predictor.preprocess, **changes)
        return onnx_export.export_onnx(replace(predictor, preprocess=preprocess), path, **rest)

    monkeypatch.setattr(export_inference, "export_onnx", wrongly)
    finished = export("--output", "m.pth", "m.onnx", "--dtype", "float32")
    assert finished.status == 2 and "error: m.onnx: not written" in finished.err
    assert names(Path()) == []


@pytest.mark.usefixtures("ready")
def test_an_onnx_export_is_three_files_with_one_card(
    export: Callable, checkpoint_state: dict[str, Any], tmp_path: Path
) -> None:
    """Exported again, without the refiner, it is two: the third would be of another network."""
    finished = export("--output", "m.onnx", "--dtype", "float32")
    assert finished.status == 0, finished.err
    for way in ("whole graph", "in parts"):
        assert f"m.onnx ({way}), float32: largest alpha difference" in finished.out
    files = ["m.coarse.onnx", "m.onnx", "m.refiner.onnx"]
    assert names(Path()) == files
    texts = [describe_file(Path(name)).splitlines()[1:] for name in files]
    assert texts[0] == texts[1] == texts[2] and "exported" in " ".join(texts[0])
    network = {**checkpoint_state["network"], "refiner": False}
    weights = {name: each for name, each in checkpoint_state["model"].items() if not name.startswith("refiner.")}
    save_checkpoint(tmp_path / "plain.pth", {**checkpoint_state, "network": network, "model": weights})
    assert export("--checkpoint", tmp_path / "plain.pth", "--output", "m.onnx", "--dtype", "float32").status == 0
    assert names(Path()) == files[:2]


def test_packages_that_onnx_needs_are_asked_for_first(
    refused: Callable[..., str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_inference, "find_spec", lambda name: None if name == "onnxscript" else name)
    line = refused(export_inference.main, "--checkpoint", checkpoint, "--output", "m.onnx")
    assert line.endswith("pip install onnxscript")
