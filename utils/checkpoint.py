"""Checkpoints that explain themselves: plain tensors and JSON types, written atomically, read without running code.

A checkpoint is a dict with the keys of `DESCRIPTION` (how to rebuild the network and feed it, and where it comes from:
utils.model_card), "model" (weights), and, for training only, whatever a resume needs. A .safetensors file holds the
weights, with the description as metadata. Both carry CRC-32 sums that are checked before anything is believed: each
entry of the zip that a .pth is, and, in the metadata of a .safetensors, description and tensors.
"""

import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from utils.errors import UserError
from utils.files import sync_folder, write_atomically

FORMAT = "tsr-matte/3"
EARLIER_FORMATS = ("tsr-matte/1", "tsr-matte/2")  # their networks, routing and settings were others
DESCRIPTION = ("format", "config", "network", "preprocess", "routing", "card")  # the card may be missing
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's prefixes of parameter names


class DamagedCheckpointError(UserError):
    """The file is not what was once written: cut short, overwritten, or a byte of it differs."""


def save_checkpoint(path: Path, state: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Writes `state` to a .pth or .safetensors file, atomically.

    Args:
        path: The file.
        state: Has the keys of `DESCRIPTION`, with or without a card, and "model"; a .safetensors holds these only.
        previous: A second name, in the same folder, for the checkpoint that `path` is until then.

    Raises:
        CannotWriteError: The disk is full, or the folder cannot be written; both files are as they were.
    """
    state = {"format": FORMAT, **state}
    if path.suffix == ".safetensors":
        description = json.dumps({key: state[key] for key in DESCRIPTION if key != "card" or key in state})
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state["model"].items()}
        crc = f"{checksum(tensors, description):08x}"
        payload = to_safetensors(tensors, metadata={"tsr_matte": description, "crc32": crc})
    else:
        # Through memory: on a full disk, torch.save raises an unclear RuntimeError, a plain write what it is.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getbuffer()
    write_atomically(path, lambda file: file.write(payload), previous=previous, size_bytes=len(payload))
    sync_folder(path.parent)


def load_checkpoint(path: Path, flag: str = "--checkpoint") -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Nothing in the file is executed.

    Args:
        path: The file.
        flag: What gave it, for the message.

    Raises:
        DamagedCheckpointError: It is damaged, or no file of this kind.
        UserError: There is no such file, or it holds code, is of an earlier version, or is not one of ours.
    """
    require_checkpoint(path, flag)
    try:
        state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_zip(path)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, not a file of plain tensors; it may hold code") from error
    except Exception as error:  # readers of damaged files fail in as many ways as files are damaged
        raise DamagedCheckpointError(f"{path}: damaged or not a checkpoint ({describe_error(error)})") from error
    weights, version = (state.get("model"), state.get("format")) if isinstance(state, dict) else (None, None)
    if isinstance(version, str) and version in EARLIER_FORMATS:
        raise UserError(
            f"{path}: of an earlier version ({version}, this is {FORMAT}); train it again, or use that version"
        )
    if not isinstance(weights, dict) or version != FORMAT:
        raise UserError(f"{path}: not a checkpoint of TSR-Matte ({FORMAT}); give {flag} a file that train.py wrote")
    return state


def require_checkpoint(path: Path, flag: str = "--checkpoint") -> None:
    """Makes sure that there is a file.

    Raises:
        UserError: There is none; the message names the flag that gave it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give {flag} a file that train.py or export_inference.py wrote")


def _read_zip(path: Path) -> Any:
    """The object in a .pth. The reader of torch compares no checksums: a wrong weight would go unnoticed."""
    with zipfile.ZipFile(path) as archive:
        # torch stores plain files. What says it is a folder, or compressed, it would read otherwise than zipfile does.
        entries = archive.infolist()
        if any(each.external_attr or each.compress_size != each.file_size for each in entries):
            raise zipfile.BadZipFile("an entry that is no plain file")
        if wrong := archive.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {wrong}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    description = metadata.get("tsr_matte", "{}")
    if "crc32" in metadata and int(metadata["crc32"], 16) != checksum(tensors, description):
        raise ValueError("wrong checksum")
    return {**json.loads(description), "model": tensors}


def checksum(tensors: Mapping[str, Tensor], description: str = "") -> int:
    """CRC-32 of tensors, with their names, types and shapes, and of what is said of them."""
    crc = zlib.crc32(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def describe_error(error: Exception) -> str:
    """Type and first line of an error, for a message of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Strictly loads `weights` into `network`; wrapper prefixes are removed, half precision is widened.

    Raises:
        UserError: Names are missing or unexpected, or shapes differ; the message lists them.
    """
    weights = {_unwrapped(name): tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    wanted = network.state_dict()
    faults = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - wanted.keys()),
        "wrong shape": sorted(n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape),
    }
    if any(faults.values()):
        parts = (
            f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
            for fault, names in faults.items()
            if names
        )
        raise UserError(f"{path}: does not fit the network: {'; '.join(parts)}")
    network.load_state_dict(weights)


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.removeprefix(WRAPPERS[0]).removeprefix(WRAPPERS[1])
    return name
