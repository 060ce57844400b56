"""Exports a checkpoint for inference: no teacher, no optimiser, float16; and checks the result against the original.

python export_inference.py --checkpoint P --output model.pth model.safetensors
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from config import RUNS, ExportConfig, parse_cli
from utils.checkpoint import DESCRIPTION, load_checkpoint, save_checkpoint
from utils.errors import UserError, run_script
from utils.files import require_writable
from utils.images import read_rgb
from utils.inference import load_model, newest_best, predict_alpha
from utils.synthetic import composite

# float16 keeps 11 bits of each weight; on trained networks that moves single pixels by a few thousandths.
PATHS = {"data_root", "backbone_weights", "teacher_checkpoint"}
LARGEST_DIFFERENCE = {"float16": 2e-2, "float32": 0.0}


def main() -> int:
    config = parse_cli(ExportConfig, prog="export_inference.py", description=__doc__)
    checkpoint = config.checkpoint or newest_best(RUNS)
    for path in config.output:
        if path.resolve() == checkpoint.resolve():
            raise UserError(f"--output {path} is the checkpoint itself; choose another name")
        if path.exists() and not is_export(path):
            raise UserError(f"--output {path} exists and is not an export; choose another name")
        require_writable(path.parent, "--output")
    reference = load_model(checkpoint)
    everything = reference.routing.everything()
    state = load_checkpoint(checkpoint)
    dtype = getattr(torch, config.dtype)
    weights = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state["model"].items()}
    pictures = [read_rgb(path) for path in config.images] or [
        composite(0, index, height=480, width=640).rgb for index in range(4)
    ]
    description = {key: state[key] for key in DESCRIPTION}
    description["config"] = without_paths(state["config"])
    print(f"checkpoint {checkpoint}: {megabytes(checkpoint)}")
    for path in config.output:
        save_checkpoint(path, {**description, "model": weights})
        exported = load_model(path)
        # Refined everywhere: a patch that just passes the threshold in one and not in the other is no rounding error.
        differences = [
            np.abs(
                predict_alpha(replace(exported, routing=everything), rgb)
                - predict_alpha(replace(reference, routing=everything), rgb)
            )
            for rgb in pictures
        ]
        largest, mean = max(float(d.max()) for d in differences), float(np.mean([d.mean() for d in differences]))
        print(
            f"{path}: {megabytes(path)}, {config.dtype}; largest alpha difference {largest:.1e}, mean {mean:.1e}, "
            f"on {len(pictures)} {'photographs' if config.images else 'embedded pictures'}"
        )
        if largest > LARGEST_DIFFERENCE[config.dtype]:
            path.unlink()
            raise UserError(
                f"{path}: removed, it differs from the checkpoint by {largest:.1e}, more than "
                f"{LARGEST_DIFFERENCE[config.dtype]:.0e}; export with --dtype float32"
            )
    return 0


def is_export(path: Path) -> bool:
    """Whether an earlier export lies there, which may be replaced: no run's last.pth, and nobody else's file."""
    try:
        state = load_checkpoint(path)
    except UserError:
        return False
    return "network" in state and "optimizer" not in state


def without_paths(config: dict) -> dict:
    """The training config without where it ran: nobody else's folders belong into a published file."""
    sections = {name: section for name, section in config.items() if name != "run"}
    return {
        name: {k: v for k, v in section.items() if k not in PATHS} if isinstance(section, dict) else section
        for name, section in sections.items()
    }


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


if __name__ == "__main__":
    run_script(main)
