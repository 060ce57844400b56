"""Model cards: what a checkpoint or an exported file says of where it comes from and what it is worth.

A card is a dict of JSON types under "card" in the description of a file (utils.checkpoint.DESCRIPTION): train.py begins
it, export_inference.py completes it, `describe_file` prints it. What nobody wrote down is said to be unknown. Keys:

preset              which one it was trained with
parameters          how many, by part
data                all it has learnt from, initial weights included: role, name, images, licence, home of each
scores              as the entries of metrics.json: each with its set, region, resolution, units, number of images
commits             of the code it was trained with, in order
weights, exported   floating-point type of the weights; commit, versions and date of the export
limits              what it is not to be trusted with
"""

import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from utils.checkpoint import DESCRIPTION, FORMAT, DamagedCheckpointError, describe_error, load_checkpoint
from utils.errors import UserError, printable
from utils.names import megabytes
from utils.onnx_metadata import read_our_metadata
from utils.origins import UNKNOWN, data_of, setting
from utils.results import Result
from utils.scoring import Scores

LIMITS = (
    "estimates the opacity of the foreground in photographs of the kinds it was trained on; on others it may be wrong "
    "without a sign of it",
    "scores hold for the set, region and resolution they are given with, and for nothing else",
    "what the licences of the data forbid may extend to these weights",
)
SCORE_KEYS = (
    "images", "left_out", "region", "resolution", "prediction", "metrics", "units", "empty_truth", "empty_unknown",
    "best_constant_alpha",
)  # fmt: skip
SETTINGS = ("precision", "refine_budget", "max_patches")  # of the prediction that was scored
LARGEST = 100_000  # values of a description that is believed
LONGEST, MOST, WIDTH = 400, 40, 110  # characters of a text, entries of a list, and columns, that are printed


# ------------------------------------------------------------------------------------------------ what is known


def training_card(
    config: Any, *, images: Mapping[str, int] | None = None, started_from: Sequence[Any] = ()
) -> dict[str, Any]:
    """What can be said of a run when it starts.

    Args:
        config: Of the run, as JSON types; anything else tells nothing.
        images: How many there are for "train" and as "backgrounds", where it is known.
        started_from: "data" of the card of the checkpoint whose weights it started from.
    """
    preset = config.get("preset") if isinstance(config, dict) else None
    return {"preset": preset, "data": data_of(config, images or {}, started_from), "scores": [], "commits": []}


def validation_entry(dataset: str, scores: Scores, *, epoch: int, precision: str) -> dict[str, Any]:
    """The entry of "scores" for the validation that a best checkpoint was chosen by."""
    name = f"{dataset}, validation set"
    entry = Result(name, scores, "whole image", "float, not rounded", {}, {}).entry()
    kept = {key: entry[key] for key in SCORE_KEYS if key in entry}
    return {"set": name, **kept, "chosen": f"epoch {epoch}, by this SAD", "settings": {"precision": precision}}


def read_description(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a loaded checkpoint says of itself, with a card in any case: made of its config where it has none.

    Args:
        state: From `load_checkpoint`.
        path: Where it was loaded from, for the message.

    Raises:
        DamagedCheckpointError: It holds more than JSON types: a .pth may hold tensors anywhere.
    """
    described = {key: state[key] for key in (*DESCRIPTION, "teacher") if key in state}
    try:
        if any(True for _ in islice(_values(described), LARGEST, None)):
            raise ValueError(f"more than {LARGEST} values")
        described = json.loads(json.dumps(described))
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: its description is damaged ({describe_error(error)})") from error
    card = described.get("card")
    card = card if isinstance(card, dict) else training_card(described.get("config"))
    return described | {"card": card | {"parameters": count_by_part(state["model"])}}


def _values(value: Any) -> Iterator[Any]:
    """All values in a nested one. Shared ones come as often as JSON would hold them, which may be without an end."""
    yield value
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each)


def count_by_part(weights: Mapping[str, Any]) -> dict[str, int]:
    """How many scalars encoder, decoder and refiner have; the networks have no buffers."""
    counts = dict.fromkeys(("encoder", "decoder", "refiner"), 0)
    for name, tensor in weights.items():
        part = "encoder" if "student.encoder." in str(name) else "decoder" if "student." in str(name) else "refiner"
        counts[part] += tensor.numel() if hasattr(tensor, "numel") else 0
    return counts


def complete(
    described: Mapping[str, Any], *, dtype: str, licence: str, scores: Sequence[Any], exported: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of an exported file.

    Args:
        described: From `read_description`.
        dtype: Of the exported weights.
        licence: In a few words, of those data whose licence is unknown; empty where nobody said.
        scores: From `read_scores`; they come after those of the card.
        exported: Commit, versions and date of the export.

    Raises:
        UserError: A licence is given, and none is unknown.
    """
    card, config = described["card"], described.get("config")
    data = [each for each in _listed(card, "data") if isinstance(each, dict)]
    data = data or [{"role": "all of it", "name": "not recorded", "licence": UNKNOWN}]
    unanswered = [str(each.get("licence", UNKNOWN)).startswith(UNKNOWN) for each in data]
    if licence and not any(unanswered):
        raise UserError("--licence has no effect: the licences of all the data are known; leave it out")
    if licence:
        told = {"licence": f"{licence} (as told at the export)"}
        data = [each | told if asked else each for each, asked in zip(data, unanswered, strict=True)]
    limits = list(LIMITS)
    if any(str(each.get("name")).startswith("Embedded") for each in data):
        limits.append("trained on drawn pictures: for trying things out, not for photographs")
    if grown_px := setting(config, "data", "dilate_px"):
        limits.append(f"trained on mattes grown by {grown_px} px: its own are too wide on purpose")
    if setting(config, "model", "refiner") is False:
        limits.append("has no refiner: what is finer than its coarse stage sees is lost")
    all_scores = [*_listed(card, "scores"), *scores]
    return {**card, "data": data, "scores": all_scores, "weights": dtype, "exported": dict(exported), "limits": limits}


def read_scores(path: Path, checkpoint: Path, digest: str) -> list[dict[str, Any]]:
    """The entries of a metrics.json of eval.py for a card: with their conditions, without anybody's folders.

    Args:
        path: The file.
        checkpoint: What it has to be the scores of.
        digest: `utils.files.sha256_of_file` of that.

    Raises:
        UserError: It cannot be read, is no such file, or holds the scores of something else.
    """
    entries, digests = [], set()
    try:
        for name, entry in json.loads(path.read_text(encoding="utf-8")).items():
            kept = {key: entry[key] for key in SCORE_KEYS if key in entry}
            kept["region"] = re.sub(r"(trimaps) in .*", r"\1", entry["region"])  # in a folder of the user's
            source = {key: entry["source"][key] for key in SETTINGS if key in entry["source"]}
            entries.append({"set": name, **kept, "settings": source})
            digests.add(entry["source"].get("sha256"))
            if any(value is None or not math.isfinite(value) for value in entry["metrics"].values()):
                raise ValueError(f"a number of {name} is not finite")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"--scores {path}: not a metrics.json of eval.py ({describe_error(error)})") from error
    if digests != {digest}:
        raise UserError(f"--scores {path}: not of {checkpoint}, as the sha256 in it tells; score that one with eval.py")
    return entries


def _listed(card: Mapping[str, Any], key: str) -> list[Any]:
    value = card.get(key)
    return value if isinstance(value, list) else []


# ------------------------------------------------------------------------------------------------ as text


def describe_file(path: Path) -> str:
    """What a .pth, .safetensors or .onnx says of itself, as text for a terminal. No network is built.

    Raises:
        UserError: There is no such file, or it is damaged, of an earlier version, or not one of ours.
    """
    size = megabytes(path) if path.is_file() else ""
    if path.suffix == ".onnx":
        described, kind = _read_onnx(path)
    else:
        state = load_checkpoint(path, "--info")
        described = read_description(state, path)
        if "network" not in state:
            teacher = _inline(described["teacher"]) if "teacher" in state else "still in training"
            return f"{_text(str(path))}: {size}, a mask teacher ({teacher}): it takes no part in inference"
        kind = "last checkpoint of a run, which train.py continues" if "training" in state else "weights of a run"
        kind = "exported for inference" if "exported" in described["card"] else kind
    card = described["card"]
    rows = {
        "preset": [_text(card.get("preset"))],
        "network": [_inline(described.get("network"))],
        "input": [_inline(described.get("preprocess"))],
        "parameters": [_inline(card.get("parameters"))],
        "weights": [_text(card.get("weights", "as trained"))],
        "trained on": [_data_line(each) for each in _listed(card, "data")],
        "scores": [_score_line(each) for each in _listed(card, "scores")],
        "trained with": [f"commit {_text(each)}" for each in _listed(card, "commits")],
        "exported": [_inline(card.get("exported", "no"))],
        "limits": [_text(each) for each in _listed(card, "limits") or LIMITS],
    }
    lines = [f"{_text(str(path))}: {size}, {kind}, {FORMAT}"]
    for label, texts in rows.items():
        if len(texts) > MOST:
            texts = [*texts[:MOST], f"... and {len(texts) - MOST} more"]
        for text in texts or ["not recorded"]:
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=f"  {label:<12}  ", subsequent_indent=" " * 18, break_on_hyphens=False
            )
            label = ""
    return "\n".join(lines)


def _read_onnx(path: Path) -> tuple[dict[str, Any], str]:
    """The description in an ONNX file, and which part of the network it is."""
    metadata = read_our_metadata(path, "--info")
    try:
        state = dict(json.loads(metadata["tsr_matte"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: its description is damaged ({describe_error(error)})") from error
    card = state.get("card")
    return state | {
        "card": card if isinstance(card, dict) else {}
    }, f"exported as ONNX ({_text(metadata.get('part', 'part unknown'))})"


def _data_line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return _text(entry)
    images = f", {_text(entry['images'])} images" if entry.get("images") is not None else ""
    ends = "".join(f"; {_text(entry[key])}" for key in ("home", "note") if key in entry)
    licence = _text(entry.get("licence", UNKNOWN))
    return f"{_text(entry.get('role'))}: {_text(entry.get('name'))}{images}; licence: {licence}{ends}"


def _score_line(entry: Any) -> str:
    """The numbers with all that must be known to read them."""
    if not isinstance(entry, dict) or not isinstance(entry.get("metrics"), dict):
        return _text(entry)
    units = entry["units"] if isinstance(entry.get("units"), dict) else {}
    by_unit: dict[str, list[str]] = {}
    for metric, value in list(entry["metrics"].items())[:MOST]:
        by_unit.setdefault(_text(units.get(metric)), []).append(f"{_text(metric)} {_text(value)}")
    numbers = "; ".join(f"{', '.join(values)} ({unit})" for unit, values in by_unit.items())
    keys = ("region", "resolution", "prediction", "left_out", "chosen", "settings", "best_constant_alpha")
    about = "; ".join(f"{key.replace('_', ' ')}: {_inline(entry[key])}" for key in keys if entry.get(key))
    return f"{_text(entry.get('set'))}, {_text(entry.get('images'))} images: {numbers}; {about}"


def _inline(value: Any) -> str:
    """A flat dict or list on one line."""
    if isinstance(value, dict) and value:
        return _joined([f"{_text(key)} {_inline_list(each)}" for key, each in islice(value.items(), MOST + 1)])
    return _inline_list(value)


def _inline_list(value: Any) -> str:
    return f"({_joined(list(map(_text, value[: MOST + 1])))})" if isinstance(value, list) and value else _text(value)


def _joined(texts: list[str]) -> str:
    return ", ".join(texts if len(texts) <= MOST else [*texts[:MOST], "..."])


def _text(value: Any) -> str:
    """Anybody's value on one line that any terminal can show, and no longer than leaves the rest to be seen."""
    if value is None or (isinstance(value, dict | list) and not value):
        return "not recorded"
    if isinstance(value, dict | list):
        return "..."
    if isinstance(value, float) or type(value) is int:
        return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if abs(value) > 9999 else str(value)
    line = printable(str(value)[: LONGEST + 1])
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
