"""utils.checkpoint and utils.files: what is saved is what is loaded, nothing is executed, nothing is lost."""

import contextlib
import errno
import json
import os
import resource
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import TSRMatte
from utils.checkpoint import (
    DESCRIPTION,
    FORMAT,
    DamagedCheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from utils.errors import UserError
from utils.files import write_atomically
from utils.inference import for_inference, load_model, predict

SUFFIXES = [".pth", ".safetensors"]


def refusal(path: Path, load: Callable[[Path], Any] = load_checkpoint) -> str:
    """The message of the UserError with which `path` is refused: one line that names it."""
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# ------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str) -> None:
    path = tmp_path / "new folder" / f"a{suffix}"
    full = {**checkpoint_state, "card": {"preset": "demo", "data": [{"images": 3}]}}
    save_checkpoint(path, full)
    state = load_checkpoint(path)
    assert state["format"] == FORMAT
    assert {key: state[key] for key in DESCRIPTION[1:]} == {key: full[key] for key in DESCRIPTION[1:]}
    assert state["model"].keys() == checkpoint_state["model"].keys()
    for name, tensor in checkpoint_state["model"].items():
        assert state["model"][name].dtype == tensor.dtype and torch.equal(state["model"][name], tensor)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_card_may_be_missing_and_nothing_else(tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, checkpoint_state)
    assert "card" not in load_checkpoint(path)
    without = {key: value for key, value in checkpoint_state.items() if key != "routing"}
    with pytest.raises(KeyError, match="routing"):
        save_checkpoint(tmp_path / "b.safetensors", without)


def test_pth_keeps_what_a_resume_needs(tmp_path: Path, checkpoint_state: dict[str, Any]) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "a.pth", {**checkpoint_state, "optimizer": optimizer.state_dict(), "step": 7})
    state = load_checkpoint(tmp_path / "a.pth")
    assert state["step"] == 7
    saved, loaded = optimizer.state_dict()["state"], state["optimizer"]["state"]
    assert torch.equal(loaded[0]["exp_avg"], saved[0]["exp_avg"])


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_model_rebuilds_the_network_offline(
    tmp_path: Path, checkpoint_state: dict[str, Any], make_network: Callable[..., TSRMatte], suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, checkpoint_state)
    predictor = load_model(path)
    rgb = torch.randint(256, (50, 70, 3), dtype=torch.uint8).numpy()
    same = replace(predictor, network=for_inference(make_network(), predictor.device))
    for ours, theirs in zip(predict(predictor, rgb)[:3], predict(same, rgb)[:3], strict=True):
        assert torch.equal(ours, theirs)
    assert not predictor.network.training
    assert predictor.preprocess.image_size == 64 and predictor.routing.patch_px == 32


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("wish", [{"pretrained": True}, {"backbone_weights": "/nowhere/swin.pth"}])
def test_a_checkpoint_cannot_ask_for_a_download(
    tmp_path: Path, checkpoint_state: dict[str, Any], wish: dict[str, Any]
) -> None:
    """Its weights replace whatever would be fetched: the wish is ignored or refused."""
    path = tmp_path / "a.pth"
    save_checkpoint(path, {**checkpoint_state, "network": {**checkpoint_state["network"], **wish}})
    with contextlib.suppress(UserError):
        load_model(path)


# ------------------------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_removed(tmp_path: Path, checkpoint_state: dict[str, Any], prefix: str) -> None:
    wrapped = {prefix + name: tensor for name, tensor in checkpoint_state["model"].items()}
    save_checkpoint(tmp_path / "a.pth", {**checkpoint_state, "model": wrapped})
    loaded = load_model(tmp_path / "a.pth").network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in checkpoint_state["model"].items())


def test_half_precision_is_widened(tmp_path: Path, checkpoint_state: dict[str, Any]) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in checkpoint_state["model"].items()}
    save_checkpoint(tmp_path / "a.safetensors", {**checkpoint_state, "model": halves})
    network = load_model(tmp_path / "a.safetensors").network
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_every_misfit_is_listed() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(1, 3),
        "x": torch.ones(1),
    }
    with pytest.raises(UserError) as caught:
        load_weights(network, weights, Path("a.pth"))
    message = str(caught.value)
    assert "a.pth" in message and "\n" not in message
    assert "1 missing (1.bias)" in message
    assert "1 unexpected (x)" in message
    assert "1 wrong shape (0.bias)" in message
    assert all(p.abs().sum() > 0 for p in network.parameters()), "nothing is loaded from a file that does not fit"


def test_long_lists_are_shortened_and_counted() -> None:
    with pytest.raises(UserError, match=r"6 missing \(0\.bias, 0\.weight, 1\.bias, \.\.\.\)"):
        load_weights(nn.Sequential(*(nn.Linear(1, 1) for _ in range(3))), {}, Path("a.pth"))


def test_another_architecture_is_refused(tmp_path: Path, checkpoint_state: dict[str, Any]) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, {**checkpoint_state, "network": {**checkpoint_state["network"], "decoder_width": 8}})
    assert "wrong shape" in refusal(path, load_model)
    save_checkpoint(path, {**checkpoint_state, "network": {**checkpoint_state["network"], "refiner": False}})
    assert "unexpected (refiner." in refusal(path, load_model)
    weights = {name: tensor for name, tensor in checkpoint_state["model"].items() if not name.startswith("refiner.")}
    save_checkpoint(path, {**checkpoint_state, "model": weights})
    assert "missing (refiner." in refusal(path, load_model)


DESCRIPTION_FAULTS = {
    "no weights": {"model": None},
    "no network": {"network": None},
    "weights that are no dict": {"model": 3},
    "weights that are no tensors": {"model": {"student": "text"}},
    "unknown backbone": {"network": {"backbone": "resnet"}},
    "unknown argument": {"network": {"depth": 3}},
    "impossible window": {"network": {"window_size": 0}},
    "preprocess of another version": {"preprocess": {"side": 3}},
    "routing of another version": {"routing": {"tiles": 3}},
}


@pytest.mark.parametrize("fault", DESCRIPTION_FAULTS)
def test_a_wrong_description_is_refused(tmp_path: Path, checkpoint_state: dict[str, Any], fault: str) -> None:
    state = {"format": FORMAT, **checkpoint_state}
    for key, value in DESCRIPTION_FAULTS[fault].items():
        if value is None:
            del state[key]
        elif isinstance(value, dict) and key != "model":
            state[key] = {**state[key], **value}
        else:
            state[key] = value
    path = tmp_path / "a.pth"
    torch.save(state, path)
    refusal(path, load_model)


# ------------------------------------------------------------------------------------------------- hostile and damaged


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, checkpoint_state: dict[str, Any]) -> None:
    marker = tmp_path / "executed"

    class Code:
        def __reduce__(self):
            return Path.touch, (marker,)

    path = tmp_path / "a.pth"
    for as_zip in (True, False):  # what is no zip is not even looked into
        state = {"format": FORMAT, **checkpoint_state, "config": Code()}
        torch.save(state, path, _use_new_zipfile_serialization=as_zip)
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert isinstance(caught.value, DamagedCheckpointError) != as_zip
        assert ("it may hold code" in str(caught.value)) == as_zip
        assert not marker.exists()


def whole(path: Path, state: dict[str, Any]) -> bytes:
    save_checkpoint(path, state)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", ["none", "text", "png", "zip", "zeros", "half", "without its end"])
def test_damaged_and_foreign_files_are_refused(
    tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str, content: str
) -> None:
    path = tmp_path / f"a{suffix}"
    good = whole(path, checkpoint_state)
    if content == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        path.write_bytes(
            {
                "none": b"",
                "text": b"a letter\n",
                "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
                "zeros": bytes(len(good)),
                "half": good[: len(good) // 2],
                "without its end": good[:-1],
            }[content]
        )
    refusal(path)


def same(first: Any, second: Any) -> bool:
    """Whether two loaded checkpoints are equal, bit by bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
    return first == second


def tiny_state(checkpoint_state: dict[str, Any]) -> dict[str, Any]:
    """A description and tensors of several types, few enough to try every byte of the file."""
    weights = {
        "float": torch.linspace(-1, 1, 20),
        "half": torch.ones(2, 3, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 2),
    }
    return {**checkpoint_state, "network": {}, "model": weights}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str) -> None:
    """Wherever it is: the file is refused, or loaded as it was (a zip has bytes that mean nothing). No traceback."""
    path = tmp_path / f"a{suffix}"
    good = whole(path, tiny_state(checkpoint_state))
    expected = load_checkpoint(path)
    refused = 0
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x10  # in the attributes of a zip's entry this says: a folder, which torch does not read
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)
        except UserError:
            refused += 1
        else:
            assert same(expected, state), f"byte {place}"
    assert refused > len(good) / 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_wrong_weight_is_damage_and_named_as_such(
    tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    good = whole(path, tiny_state(checkpoint_state))
    numbers = torch.linspace(-1, 1, 20).numpy().tobytes()
    damaged = bytearray(good)
    damaged[good.index(numbers) + 40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedCheckpointError, match="wrong checksum"):
        load_checkpoint(path)


def test_safetensors_without_a_checksum_are_believed(tmp_path: Path, checkpoint_state: dict[str, Any]) -> None:
    """Somebody may have written them with another tool."""
    description = {"format": FORMAT, **{key: checkpoint_state[key] for key in DESCRIPTION[1:] if key != "card"}}
    weights = {"a": torch.ones(3)}
    path = tmp_path / "a.safetensors"
    save_file(weights, path, metadata={"tsr_matte": json.dumps(description)})
    assert torch.equal(load_checkpoint(path)["model"]["a"], weights["a"])
    save_file(weights, path, metadata={"tsr_matte": json.dumps(description), "crc32": "0" * 8})
    refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("load", [load_checkpoint, load_model])
@pytest.mark.parametrize("version", ["tsr-matte/1", "tsr-matte/2"])
def test_a_checkpoint_of_an_earlier_version_is_named_as_such(
    tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str, load: Callable[[Path], Any], version: str
) -> None:
    """Whatever else of it does not fit."""
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, {**checkpoint_state, "format": version, "routing": {"dense_above": 0.5}})
    assert refusal(path, load) == (
        f"{path}: of an earlier version ({version}, this is {FORMAT}); train it again, or use that version"
    )


def test_other_peoples_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content in ({"state_dict": {}}, [1, 2], 3, {"format": "tsr-matte/99", "model": {}}):
        torch.save(content, path)
        assert FORMAT in refusal(path)


def test_a_missing_checkpoint_names_the_way_to_one(tmp_path: Path) -> None:
    assert "--checkpoint" in refusal(tmp_path / "a.pth")
    refusal(tmp_path)


@pytest.mark.parametrize("length", [2**62, 99_999_999, 4096])
def test_a_huge_safetensors_header_is_not_believed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"__metadata__":{}}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("description", ["3", "[1]", "null", "no json", "{}"])
def test_a_wrong_safetensors_description_is_refused(tmp_path: Path, description: str) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"__metadata__": {"tsr_matte": description}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refusal(path)


# ------------------------------------------------------------------------------------------------- writing


def remains(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a temporary file is left"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_save_leaves_the_previous_file(
    tmp_path: Path, checkpoint_state: dict[str, Any], monkeypatch: pytest.MonkeyPatch, suffix: str, function: str
) -> None:
    path = tmp_path / "run" / f"a{suffix}"
    content = whole(path, checkpoint_state)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    assert os.strerror(errno.ENOSPC) in refusal(
        path, lambda p: save_checkpoint(p, {**checkpoint_state, "config": {"a": 1}})
    )
    remains(path, content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_previous_file(tmp_path: Path, checkpoint_state: dict[str, Any], suffix: str) -> None:
    path = tmp_path / "run" / f"a{suffix}"
    content = whole(path, checkpoint_state)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, hard))
    try:
        message = refusal(path, lambda p: save_checkpoint(p, checkpoint_state))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"it needs {len(content):,} bytes" in message
    remains(path, content)


def test_an_interrupted_write_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write(b"first"))

    def interrupted(file) -> None:
        file.write(b"sec")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    remains(path, b"first")


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write(b"first"))

    def write(file) -> None:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == b"first"

    write_atomically(path, write)
    remains(path, b"second")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(tmp_path / "file" / "a.pth", lambda p: write_atomically(p, lambda file: file.write(b"x")))


@pytest.mark.parametrize("length", [240, 255, 300])
def test_long_names_are_written_or_named(tmp_path: Path, length: int) -> None:
    """255 bytes is what file systems allow: the temporary name must not be what breaks it."""
    path = tmp_path / ("n" * (length - 4) + ".pth")
    if length > 255:
        refusal(path, lambda p: write_atomically(p, lambda file: file.write(b"x")))
    else:
        write_atomically(path, lambda file: file.write(b"x"))
        remains(path, b"x")


@pytest.mark.parametrize("links", [True, False])
def test_the_file_before_keeps_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Where the disk has no links, it is copied."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path, previous = tmp_path / "last", tmp_path / "previous"
    for content, before in ((b"1", None), (b"2", b"1"), (b"3", b"2")):
        write_atomically(path, lambda file, content=content: file.write(content), previous=previous)
        assert path.read_bytes() == content
        assert (previous.read_bytes() if previous.exists() else None) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["last", "previous"]


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("renames", [0, 1])
def test_both_are_whole_between_the_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    """The instants at which a kill leaves other names than before or after."""
    path, previous = tmp_path / "last", tmp_path / "previous"
    for content in (b"1", b"2"):
        write_atomically(path, lambda file, content=content: file.write(content), previous=previous)
    replace, done = os.replace, []

    def killed(*arguments: Any) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(replace(*arguments))

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, lambda file: file.write(b"3"), previous=previous)
    assert path.read_bytes() == (b"3" if renames else b"2") and previous.read_bytes() == b"1"


def test_a_disk_that_is_full_for_the_copy_changes_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous = tmp_path / "last", tmp_path / "previous"
    for content in (b"1" * 1000, b"2" * 1000):
        write_atomically(path, lambda file, content=content: file.write(content), previous=previous)
    monkeypatch.setattr(os, "link", no_links)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        refusal(path, lambda p: write_atomically(p, lambda file: file.write(b"3"), previous=previous))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"2" * 1000 and previous.read_bytes() == b"1" * 1000
    assert len(list(tmp_path.iterdir())) == 2
