"""Checkpoints that explain themselves: plain tensors and JSON types, written atomically, read without running code.

A checkpoint is a dict with the keys of `DESCRIPTION` (how to rebuild the network and feed it), "model" (weights), and,
for training only, whatever a resume needs. A .safetensors file holds the weights, with the description as metadata.
"""

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from utils.errors import UserError
from utils.files import write_atomically

FORMAT = "tsr-matte/2"
EARLIER_FORMATS = ("tsr-matte/1",)  # their networks, routing and settings were others
DESCRIPTION = ("format", "config", "network", "preprocess", "routing")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's prefixes of parameter names


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` (which has the keys of `DESCRIPTION` and "model") to a .pth or .safetensors file, atomically."""
    state = {"format": FORMAT, **state}
    if path.suffix == ".safetensors":
        description = json.dumps({key: state[key] for key in DESCRIPTION})
        tensors = {name: tensor.contiguous() for name, tensor in state["model"].items()}
        payload = to_safetensors(tensors, metadata={"tsr_matte": description})
    else:
        # Through memory: on a full disk, torch.save raises an unclear RuntimeError, a plain write what it is.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getbuffer()
    write_atomically(path, lambda file: file.write(payload))


def load_checkpoint(path: Path, flag: str = "--checkpoint") -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Nothing in the file is executed.

    Args:
        path: The file.
        flag: What gave it, for the message.

    Raises:
        UserError: There is no such file, or it is damaged, holds code, is of an earlier version, or is not one of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give {flag} a file that train.py wrote")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                described = (file.metadata() or {}).get("tsr_matte")
                state = dict(json.loads(described)) if described else {}
                state["model"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, not a file of plain tensors; it may hold code") from error
    except Exception as error:  # readers of damaged files fail in as many ways as files are damaged
        raise UserError(f"{path}: damaged or not a checkpoint ({describe_error(error)})") from error
    weights, version = (state.get("model"), state.get("format")) if isinstance(state, dict) else (None, None)
    if isinstance(version, str) and version in EARLIER_FORMATS:
        raise UserError(
            f"{path}: of an earlier version ({version}, this is {FORMAT}); train it again, or use that version"
        )
    if not isinstance(weights, dict) or version != FORMAT:
        raise UserError(f"{path}: not a checkpoint of TSR-Matte ({FORMAT}); give {flag} a file that train.py wrote")
    return state


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
