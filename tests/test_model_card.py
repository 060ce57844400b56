"""utils.model_card, utils.origins, utils.onnx_metadata: what a file says of itself is true and safe to print."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from training import stopped_at, tiny

import train
from config import PRESETS
from models import TSRMatte
from utils.checkpoint import FORMAT, DamagedCheckpointError, load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import sha256_of_file, to_json
from utils.model_card import LONGEST, complete, describe_file, read_description, read_scores, training_card
from utils.onnx_metadata import read_onnx_metadata
from utils.origins import data_of
from utils.synthetic import write_embedded
from utils.trainer import Trainer

IMAGENET = "images: non-commercial research"


def config_of(preset: str = "tsr", **sections: dict[str, Any]) -> dict[str, Any]:
    config = to_json(asdict(PRESETS[preset]()))
    return config | {name: config[name] | values for name, values in sections.items()}


# ------------------------------------------------------------------------------------------------ origins


def test_a_published_set_and_imagenet_weights_are_named_with_their_licences() -> None:
    data, weights = data_of(config_of(), {"train": 3000}, [])
    assert (data["name"], data["images"]) == ("DIS5K, train", 3000)
    assert data["licence"].startswith("non-commercial research") and "github.com" in data["home"]
    assert "swin_base_patch4_window7_224" in weights["name"] and IMAGENET in weights["licence"]
    assert "swin_tiny" in data_of(config_of("tsr-tiny"), {}, [])[1]["name"]


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    for dataset in ("custom", "HRS10K", "of_tomorrow"):
        (entry,) = data_of(config_of(data={"dataset": dataset}, model={"pretrained": False}), {}, [])
        assert entry["licence"].startswith("unknown") and entry["images"] is None
    assert "val is the test set" in data_of(config_of(data={"dataset": "HRS10K"}), {}, [])[0]["note"]
    own = data_of(config_of(model={"backbone_weights": "/home/me/swin.pth"}), {}, [])[1]
    assert own["licence"] == "unknown" and "/home" not in str(own)
    for nothing in ({}, None, 3, {"data": None}, {"data": {"dataset": None}}):
        assert data_of(nothing, {}, []) == []


def test_backgrounds_teachers_and_earlier_runs_are_data_too() -> None:
    def roles(**sections: dict[str, Any]) -> list[str]:
        return [
            each["role"] for each in data_of(config_of(**sections), {"backgrounds": 7}, [{"role": "x", "name": "y"}])
        ]

    own = ["photographs and mattes"]
    encoder = ["initial weights of the encoder"]
    assert roles(composition={"backgrounds": "/home/me/b"}) == [*own, "new backgrounds", *encoder]
    assert roles(teacher={"teacher": "swin"}) == [*own, *encoder, "weights of the teacher"]
    assert roles(teacher={"teacher_checkpoint": "/home/me/t.pth"}) == [*own, *encoder, "teacher of another run"]
    # Weights that another checkpoint replaces at once are not ImageNet's; what that one had learnt from counts.
    assert roles(run={"init_from": "/home/me/a.pth"}) == [*own, "earlier run: x"]
    (_, unknown) = data_of(config_of(run={"init_from": "a.pth"}), {}, [])
    assert (unknown["role"], unknown["licence"]) == ("earlier run: all of it", "unknown")


# ------------------------------------------------------------------------------------------------ of a training run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders a (5 + 3 pictures, two epochs by two commits) and b, which starts from its weights."""
    root = tmp_path_factory.mktemp("runs")
    write_embedded(root / "pictures", train=5, val=3, long_side=(72, 96), workers=1)
    common = ["--data-root", root / "pictures", "--batch-size", 5, "--teacher-epochs", 1]
    drawn = ["--dataset", "embedded", "--epochs", 2, "--run-dir", root / "a"]
    own = ["--dataset", "custom", "--epochs", 1, "--run-dir", root / "b", "--init-from", root / "a" / "best.pth"]

    def run(commit: str, *arguments: Any) -> None:
        patch.setattr(train, "commit", lambda: commit)
        patch.setattr("sys.argv", ["train.py", *tiny(*common, *arguments)])
        train.main()

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with stopped_at(Trainer, "train_epoch", 3):  # the teacher's, the first epoch, the second
            run("first", *drawn)
        run("second", *drawn, "--resume")
        run("third", *own)
    return root


def test_a_run_notes_its_data_commits_and_validation(runs: Path) -> None:
    card = load_checkpoint(runs / "a" / "best.pth")["card"]
    assert (card["preset"], card["data"][0]["name"], card["data"][0]["images"]) == ("demo", "Embedded, train", 5)
    assert load_checkpoint(runs / "a" / "last.pth")["card"]["commits"] == ["first", "second"]
    (entry,) = card["scores"]
    assert (entry["images"], entry["region"], entry["units"]["SAD"]) == (3, "whole image", "sum / 1000")
    validation = pd.read_csv(runs / "a" / "validation.csv").set_index("epoch")
    best = validation["SAD"].idxmin()
    assert entry["metrics"]["SAD"] == pytest.approx(validation["SAD"][best]) and f"epoch {best}," in entry["chosen"]


def test_what_a_run_starts_from_is_handed_down(runs: Path) -> None:
    data = load_checkpoint(runs / "b" / "best.pth")["card"]["data"]
    assert [(each["role"], each["name"]) for each in data] == [
        ("photographs and mattes", "Custom, train"),
        ("earlier run: photographs and mattes", "Embedded, train"),
    ]
    assert data[1]["images"] == 5 and data[1]["licence"].startswith("MIT")


def test_the_files_of_a_run_are_told_apart(runs: Path) -> None:
    text = {name: describe_file(runs / "a" / f"{name}.pth") for name in ("best", "last", "teacher")}
    assert "weights of a run" in text["best"] and "5 images" in text["best"] and "SAD " in text["best"]
    assert "train.py continues" in text["last"] and "commit second" in text["last"]
    assert text["last"].count("not recorded") == 1, "scores alone, which are the best's"
    assert "mask teacher (kind cnn" in text["teacher"] and "no part in inference" in text["teacher"]


# ------------------------------------------------------------------------------------------------ as text


@pytest.fixture
def state(checkpoint_state: dict[str, Any]) -> dict[str, Any]:
    """As an export has it."""
    known = {**checkpoint_state, "config": config_of("tsr-tiny", data={"dataset": "custom"})}
    described = read_description(known, Path("a.pth"))
    entry = {
        "set": "DIS-TE1", "images": 500, "region": "whole image", "resolution": "ground truth's own",
        "metrics": {"SAD": 12.34567, "MSE": 0.0123}, "units": {"SAD": "sum / 1000", "MSE": "mean per pixel"},
    }  # fmt: skip
    made = {"commit": "0123abc", "date": "2031-05-06", "torch": "2.15"}
    card = complete(described, dtype="float16", licence="", scores=[entry], exported=made)
    return {**known, "card": card}


def write(path: Path, state: dict[str, Any]) -> Path:
    """The file, or, as ONNX, its metadata behind a field that stands for the network."""
    if path.suffix != ".onnx":
        save_checkpoint(path, state)
        return path
    described = {"format": FORMAT, **{key: value for key, value in state.items() if key != "model"}}
    properties = {"format": FORMAT, "part": "whole image", "crc32": "0", "tsr_matte": json.dumps(described)}
    path.write_bytes(field(7, bytes(300)) + b"".join(field(14, pair(*each)) for each in properties.items()))
    return path


def integer(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + integer(value >> 7)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in a protocol buffer."""
    return integer(number << 3 | 2) + integer(len(content)) + content


def pair(key: str, value: str) -> bytes:
    return field(1, key.encode()) + field(2, value.encode())


SUFFIXES = [".pth", ".safetensors", ".onnx"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_text_says_it_all_without_a_network(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write(tmp_path / f"m{suffix}", state)
    monkeypatch.setattr(TSRMatte, "__init__", lambda *_, **__: pytest.fail("a network was built"))
    text = describe_file(path)
    flat = " ".join(text.split())
    parameters = sum(tensor.numel() for tensor in state["model"].values())
    counted = state["card"]["parameters"]
    assert sum(counted.values()) == parameters
    assert all(f"{part} {number}" in flat.replace(",", "") for part, number in counted.items())
    for fact in ("exported", "tsr-tiny", "backbone nano", "image_size 64", "float16", "Custom, train; licence: unknown",
                 "DIS-TE1, 500 images: SAD 12.35 (sum / 1000); MSE 0.0123 (mean per pixel); region: whole image",
                 "resolution: ground truth's own", "commit 0123abc, date 2031-05-06", IMAGENET, FORMAT):  # fmt: skip
        assert fact in flat, (fact, text)
    assert max(map(len, text.splitlines()[1:])) <= 110


def test_a_licence_is_told_of_what_is_unknown_only(state: dict[str, Any]) -> None:
    described = read_description(state, Path("a.pth"))
    told = complete(described, dtype="float16", licence="CC BY 4.0", scores=[], exported={})["data"]
    assert told[0]["licence"].startswith("CC BY 4.0") and told[1] == state["card"]["data"][1]
    known = {**described, "card": training_card(config_of())}
    with pytest.raises(UserError, match="--licence has no effect"):
        complete(known, dtype="float16", licence="CC BY 4.0", scores=[], exported={})


def test_limits_follow_from_how_it_was_trained(checkpoint_state: dict[str, Any]) -> None:
    def limits(preset: str) -> str:
        described = read_description({**checkpoint_state, "config": config_of(preset)}, Path("a.pth"))
        return " ".join(complete(described, dtype="float32", licence="", scores=[], exported={})["limits"])

    assert "drawn pictures" in limits("demo") and "drawn pictures" not in limits("tsr")
    assert "grown by 5 px" in limits("dilation") and "no refiner" in limits("dilation")
    assert "grown" not in limits("baseline") and "no refiner" not in limits("tsr")


NESTED: dict[str, Any] = {}
for _ in range(50):
    NESTED = {"a": [NESTED]}
HOSTILE = [None, 3, -1e300, True, "x" * 10**6, "\x1b[2J\r\n\u202edone", [], {}, [[[]]], NESTED, ["\x07"] * 10**4]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_anybodys_card_prints_safely(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Whatever stands where: lines that a terminal shows as they are, and not too many."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    places = [("card",), ("network",), ("preprocess",), ("config",), *(("card", key) for key in state["card"])]
    places += [("card", "data", 0), ("card", "scores", 0)]
    places += [("card", "data", 0, key) for key in state["card"]["data"][0]]
    places += [("card", "scores", 0, key) for key in state["card"]["scores"][0]]
    small = {**state, "model": {"student.a": torch.zeros(1)}}
    for number, place in enumerate(places):
        changed = json.loads(json.dumps({key: value for key, value in small.items() if key != "model"}))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = HOSTILE[number % len(HOSTILE)]
        for value in HOSTILE if number % 3 == 0 else HOSTILE[4:6]:
            inner[place[-1]] = value
            text = describe_file(write(tmp_path / f"m{suffix}", {**small, **changed}))
            assert all(line.isprintable() for line in text.split("\n")), (place, value)
            assert len(text) < 50 * LONGEST, (place, len(text))


def test_what_is_cut_off_shows_it(tmp_path: Path, state: dict[str, Any]) -> None:
    state["card"]["preset"] = "x" * (LONGEST + 1)
    state["network"] = {str(number): number for number in range(50)}
    text = describe_file(write(tmp_path / "m.pth", state))
    shown = "".join(line.strip() for line in text.splitlines())
    assert f"{'x' * LONGEST}..." in shown and "39 39, ..." in text.replace("\n" + " " * 18, " ") and "40 40" not in text


def test_a_description_of_more_than_json_types_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    doubled: dict[str, Any] = {}
    for _ in range(60):
        doubled = {"a": doubled, "b": doubled}  # small in a .pth, and 2^60 dicts in JSON
    cards = ({"preset": torch.ones(3)}, doubled)
    for wrong in (*({"card": card} for card in cards), {"network": {"a": torch.ones(2)}}):
        save_checkpoint(tmp_path / "a.pth", {**state, **wrong})
        with pytest.raises(DamagedCheckpointError, match=r"a\.pth: its description is damaged") as caught:
            describe_file(tmp_path / "a.pth")
        assert "\n" not in str(caught.value)


def test_missing_foreign_and_damaged_files_are_named_in_one_line(tmp_path: Path, state: dict[str, Any]) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"m{suffix}"
        good = write(path, state).read_bytes()
        for content in (
            None,
            b"",
            b"a letter\n",
            bytes(2000),
            good[: len(good) // 2],
            good[:-1],
            b"\x89PNG\r\n\x1a\n" * 9,
        ):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(UserError) as caught:
                describe_file(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for text in ("[]", "{", '{"format": "tsr-matte/2"}', "[" * 10**5):
        path.write_bytes(field(14, pair("tsr_matte", text)))
        with pytest.raises(UserError):
            describe_file(path)


# ------------------------------------------------------------------------------------------------ metadata of ONNX


def test_onnx_metadata_among_fields_of_every_type(tmp_path: Path) -> None:
    others = [field(7, field(14, pair("inner", "of the network"))), integer(1 << 3) + integer(10), field(2, b"pytorch")]
    others += [
        integer(99 << 3 | 1) + bytes(8),
        integer(98 << 3 | 5) + bytes(4),
        integer(5 << 3) + b"\xff" * 9 + b"\x01",
    ]
    swapped = field(2, b"last") + field(1, b"value before key")
    content = b"".join(others[:3]) + field(14, pair("a", "ä" * 100)) + b"".join(others[3:]) + field(14, swapped)
    path = tmp_path / "m.onnx"
    path.write_bytes(content + field(14, pair("empty", "")) + field(14, field(1, b"no value")))
    expected = {"a": "ä" * 100, "value before key": "last", "empty": "", "no value": ""}
    assert read_onnx_metadata(path) == expected
    for place in range(len(content)):  # cut anywhere: an error, or fewer pairs, but none that is wrong
        path.write_bytes(content[:place])
        with contextlib.suppress(DamagedCheckpointError):
            assert read_onnx_metadata(path).items() <= expected.items()


def test_onnx_metadata_as_the_onnx_package_writes_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(torch.ones(1000).numpy(), "w")])
    model = onnx.helper.make_model(graph)
    properties = {"tsr_matte": json.dumps({"a": ["é"] * 200}), "part": "coarse", "": ""}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, tmp_path / "m.onnx")
    assert read_onnx_metadata(tmp_path / "m.onnx") == properties


# ------------------------------------------------------------------------------------------------ scores


@pytest.fixture
def metrics(tmp_path: Path, checkpoint: Path) -> Callable[..., Path]:
    """`metrics(**changes)` writes a metrics.json of the checkpoint, its entry changed."""

    def metrics(**changes: Any) -> Path:
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        entry = {
            "images": 3, "left_out": 1, "resolution": "ground truth's own", "prediction": "float, not rounded",
            "region": "whole image; _unknown: unknown region of the trimaps in /home/me/secret",
            "metrics": {"SAD": 5.5, "SAD_unknown": 4.5}, "units": {"SAD": "sum / 1000", "SAD_unknown": "sum / 1000"},
            "source": {"checkpoint": "/home/me/best.pth", "sha256": digest, "precision": "fp32"},
            "reasons": {"my cat.jpg": "unreadable"}, "curves": {"F": [0.5]},
        }  # fmt: skip
        path = tmp_path / "metrics.json"
        path.write_text(json.dumps({"DIS-TE1": {**entry, **changes}}))
        return path

    return metrics


def test_scores_keep_their_conditions_and_no_path(metrics: Callable[..., Path], checkpoint: Path) -> None:
    (entry,) = read_scores(metrics(), checkpoint, sha256_of_file(checkpoint))
    assert (entry["set"], entry["images"], entry["left_out"]) == ("DIS-TE1", 3, 1)
    assert entry["region"] == "whole image; _unknown: unknown region of the trimaps"
    assert entry["metrics"] == {"SAD": 5.5, "SAD_unknown": 4.5} and entry["settings"] == {"precision": "fp32"}
    assert "/home" not in str(entry) and "my cat" not in str(entry)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": {"sha256": "0" * 64}}, "not of"),
        ({"source": {"predictions": "mattes"}}, "not of"),
        ({"metrics": {"SAD": float("nan")}}, "not a metrics.json.*not finite"),
        ({"metrics": {"SAD": None}}, "not a metrics.json.*not finite"),
        ({"metrics": {"SAD": "5"}}, "not a metrics.json"),
        ({"metrics": None}, "not a metrics.json"),
        ({"region": None}, "not a metrics.json"),
    ],
)
def test_scores_of_something_else_are_refused(
    metrics: Callable[..., Path], checkpoint: Path, changes: dict[str, Any], reason: str
) -> None:
    path = metrics(**changes)
    with pytest.raises(UserError, match=f"--scores {path}: {reason}"):
        read_scores(path, checkpoint, sha256_of_file(checkpoint))


@pytest.mark.parametrize("content", [None, "", "[]", "3", "{}", "\x00"])
def test_files_that_are_no_scores_are_refused(tmp_path: Path, checkpoint: Path, content: str | None) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="--scores"):
        read_scores(path, checkpoint, sha256_of_file(checkpoint))
