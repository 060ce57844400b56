"""What a network has learnt from: data and initial weights, with their licences, by the names the project knows."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm

from models.student import BACKBONES
from utils.errors import UserError
from utils.layouts import DatasetLayout
from utils.pairs import find_layout

UNKNOWN = "unknown"


def data_of(config: Any, images: Mapping[str, int], started_from: Sequence[Any]) -> list[dict[str, Any]]:
    """All that a run learns from; of anybody's own folders it names no path.

    Args:
        config: Of the run, as JSON types; anything else tells nothing.
        images: How many there are for "train" and as "backgrounds", where it is known.
        started_from: What the weights it started from had learnt from, as this function says it.

    Returns:
        Dicts with role, name, images (None: not known), licence, and home and note where there is something to say.
    """
    dataset = setting(config, "data", "dataset")
    if dataset is None:
        return []
    entries = [_of_dataset(str(dataset), images.get("train"))]
    if setting(config, "composition", "backgrounds"):
        entries.append(_entry("new backgrounds", "photographs in a folder", UNKNOWN, images.get("backgrounds")))
    if setting(config, "run", "init_from"):
        earlier = [each for each in started_from if isinstance(each, dict)]
        earlier = earlier or [_entry("all of it", "not recorded", UNKNOWN)]
        entries += [each | {"role": f"earlier run: {each.get('role')}"} for each in earlier]
    elif setting(config, "model", "pretrained") or setting(config, "model", "backbone_weights"):
        entries.append(_of_imagenet(config, "initial weights of the encoder"))
    kind = setting(config, "teacher", "teacher")
    if kind != "none" and setting(config, "teacher", "teacher_checkpoint"):
        entries.append(_entry("teacher of another run", "not recorded", UNKNOWN))
    elif kind == "swin" and setting(config, "model", "pretrained"):
        entries.append(_of_imagenet(config, "weights of the teacher"))
    return entries


def setting(config: Any, section: str, name: str) -> Any:
    """A setting of a config that may be anybody's; None where it is not there."""
    values = config.get(section) if isinstance(config, dict) else None
    return values.get(name) if isinstance(values, dict) else None


def _of_dataset(dataset: str, images: int | None) -> dict[str, Any]:
    try:
        layout = find_layout(dataset)
    except UserError:  # of a version that knows more sets
        layout = DatasetLayout(dataset, {}, (), licence=UNKNOWN)
    licence = UNKNOWN if layout.name == "Custom" else layout.licence
    if licence == DatasetLayout.licence:
        licence = f"{UNKNOWN}: {licence}"
    entry = _entry("photographs and mattes", f"{layout.name}, train", licence, images)
    return entry | {key: text for key, text in (("home", layout.home), ("note", layout.note)) if text}


def _of_imagenet(config: Any, role: str) -> dict[str, Any]:
    """ImageNet weights: their authors' licence, and the terms of the images they have learnt from."""
    architecture, _ = BACKBONES.get(str(setting(config, "model", "backbone")), (UNKNOWN, {}))
    known = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if known is None or setting(config, "model", "backbone_weights"):
        return _entry(role, f"a file with weights of {architecture}", UNKNOWN)
    licence = f"weights {known.license or UNKNOWN}; images: non-commercial research (image-net.org)"
    return _entry(role, f"ImageNet, through timm's {architecture}.{known.tag}", licence)


def _entry(role: str, name: str, licence: str, images: int | None = None) -> dict[str, Any]:
    return {"role": role, "name": name, "images": images, "licence": licence}
