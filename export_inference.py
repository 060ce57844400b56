"""Exports a checkpoint for inference: no teacher, no optimiser, float16; and checks the result against the original.

python export_inference.py --checkpoint P --output model.pth model.safetensors
python export_inference.py --checkpoint P --output model.onnx --dtype float32     model.coarse, model.refiner as well
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import RUNS, ExportConfig, parse_cli
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError, run_script
from utils.files import remove_file, remove_stale, require_writable, sha256_of_file, sync_folder, temporary_name
from utils.images import list_images, read_rgb
from utils.inference import Predictor, load_model, newest_best, predict_alpha
from utils.model_card import complete, read_description, read_scores
from utils.names import counted, megabytes
from utils.onnx_export import export_onnx
from utils.onnx_metadata import read_onnx_metadata
from utils.onnx_network import PART_SUFFIXES, OnnxPhotograph, part_path
from utils.run_folder import commit, versions
from utils.synthetic import composite

PATHS = {"data_root", "backbone_weights", "teacher_checkpoint", "backgrounds", "foregrounds"}
# Of alpha, at any pixel: float16 keeps 11 bits of a number, and ONNX Runtime adds up in another order.
LARGEST_DIFFERENCE = {
    ".pth": {"float16": 1e-2, "float32": 0.0},
    ".safetensors": {"float16": 1e-2, "float32": 0.0},
    ".onnx": {"float16": 1e-2, "float32": 1e-3},
}
# Sides of the embedded pictures, in sides of the coarse stage's input: shrunk by it, enlarged by it, and odd.
SHAPES = ((1.1, 1.5), (0.7, 0.45), (0.31, 0.52))


def main() -> int:
    config = parse_cli(ExportConfig, prog="export_inference.py", description=__doc__)
    checkpoint = config.checkpoint or newest_best(RUNS)
    refuse_losses(config.output, checkpoint)
    reference = load_model(checkpoint)
    description, weights = describe_export(config, checkpoint)
    paths = [each for path in config.images for each in (list_images(path) if path.is_dir() else [path])]
    pictures = [read_rgb(path) for path in paths] or embedded_pictures(reference.preprocess.image_size)
    alphas = [predict_alpha(everywhere(reference), rgb) for rgb in pictures]
    print(f"checkpoint {checkpoint}: {megabytes(checkpoint)}; compared on {counted(len(pictures), 'picture')}")
    with ExitStack() as stack:
        written: dict[Path, Path] = {}
        for path in config.output:
            hidden = hidden_folder(path.parent, stack) / path.name
            if path.suffix == ".onnx":
                files = export_onnx(reference, hidden, dtype=config.dtype, description=description)
            else:
                save_checkpoint(hidden, {**description, "model": weights})
                files = [hidden]
            for part, predict in predictions_of(hidden):
                rivals = [predict(rgb) for rgb in pictures]
                print(f"{path}{part}, {config.dtype}: {compare(path, config.dtype, alphas, rivals)}")
            written |= {path.with_name(file.name): file for file in files}
        take_places(config.output, written)
    print("written: " + ", ".join(f"{path} ({megabytes(path)})" for path in written))
    return 0


def refuse_losses(outputs: Sequence[Path], checkpoint: Path) -> None:
    """Nothing but exports is ever replaced.

    Raises:
        UserError: An output is the checkpoint, somebody's file or a run's, the place of another, or cannot be written,
            or the packages for it are missing.
    """
    files = [file for path in outputs for file in files_of(path)]
    for path in files:
        if path.resolve() == checkpoint.resolve():
            raise UserError(f"--output {path} is the checkpoint itself; choose another name")
        if path.exists() and not is_export(path):
            raise UserError(f"--output {path} exists and is not an export; choose another name")
        if files.count(path) > 1:
            raise UserError(f"--output: {path} would be written twice; choose other names")
        require_writable(path.parent, "--output")
    needed = [] if all(path.suffix != ".onnx" for path in outputs) else ["onnx", "onnxruntime", "onnxscript"]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise UserError(
            f"--output {files[0]}: an .onnx needs packages that are missing: pip install {' '.join(missing)}"
        )


def files_of(path: Path) -> list[Path]:
    """The files an output may consist of."""
    return [part_path(path, part) for part in PART_SUFFIXES] if path.suffix == ".onnx" else [path]


def is_export(path: Path) -> bool:
    """Whether an earlier export lies there, which may be replaced: no run's checkpoint, and nobody else's file."""
    try:
        if path.suffix == ".onnx":
            return "tsr_matte" in read_onnx_metadata(path)
        card = load_checkpoint(path).get("card")
    except UserError:
        return False
    return isinstance(card, dict) and "exported" in card


def describe_export(config: ExportConfig, checkpoint: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What an export says of itself, and its weights."""
    state = load_checkpoint(checkpoint)
    described = read_description(state, checkpoint)
    digest = sha256_of_file(checkpoint) if config.scores else ""
    libraries = {name: str(each) for name, each in versions(torch.device("cpu")).items() if name != "device"}
    card = complete(
        described,
        dtype=config.dtype,
        licence=config.licence,
        scores=[entry for path in config.scores for entry in read_scores(path, checkpoint, digest)],
        exported={"commit": commit(), "date": date.today().isoformat(), **libraries},
    )
    weights = {name: tensor for name, tensor in state["model"].items() if isinstance(tensor, torch.Tensor)}
    weights = halved(weights) if config.dtype == "float16" else {n: each.float() for n, each in weights.items()}
    return {**described, "config": without_paths(described["config"]), "card": card}, weights


def halved(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in float16, but for norms, biases and what the pixels meet first.

    Those are under a hundredth of all, and make most of the difference: on 33 photographs a trained network's alpha
    moved by 2.8e-3 at most, and by 1.1e-2 with all of them in float16.
    """
    return {
        name: tensor if tensor.ndim < 2 or "patch_embed" in name else tensor.half() for name, tensor in weights.items()
    }


def without_paths(config: Any) -> dict[str, Any]:
    """The training config without where it ran: nobody else's folders belong into a published file."""
    sections = {name: section for name, section in config.items() if name != "run"} if isinstance(config, dict) else {}
    return {
        name: {k: v for k, v in section.items() if k not in PATHS} if isinstance(section, dict) else section
        for name, section in sections.items()
    }


def embedded_pictures(image_size: int) -> list[np.ndarray]:
    """Drawn ones, for whoever has no photographs at hand."""
    sizes = [[max(32, round(side * image_size)) for side in sides] for sides in SHAPES]
    return [composite(0, index, height=height, width=width).rgb for index, (height, width) in enumerate(sizes)]


def everywhere(predictor: Predictor) -> Predictor:
    """Refining everything: a patch that just passes the threshold here and not there is no rounding error."""
    return replace(predictor, routing=predictor.routing.everything())


def predictions_of(path: Path) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """The ways from a picture to an alpha that an export offers, with a word where there are several."""
    if path.suffix == ".onnx":
        yield " (whole graph)", OnnxPhotograph(path, torch.device("cpu")).alpha
        yield " (in parts)", partial(predict_alpha, everywhere(load_model(path)))
    else:
        yield "", partial(predict_alpha, everywhere(load_model(path)))


def compare(path: Path, dtype: str, alphas: Sequence[np.ndarray], rivals: Sequence[np.ndarray]) -> str:
    """What an export makes of the pictures, beside the alphas of the checkpoint, in words.

    Raises:
        UserError: It makes something else of them.
    """
    differences = [np.abs(ours - theirs) for ours, theirs in zip(rivals, alphas, strict=True)]
    largest, mean = (
        max(float(each.max()) for each in differences),
        float(np.mean([each.mean() for each in differences])),
    )
    most = LARGEST_DIFFERENCE[path.suffix][dtype]
    if not largest <= most:  # nor is nan
        remedy = "export with --dtype float32" if dtype == "float16" else "export a .safetensors"
        raise UserError(
            f"{path}: not written, its alphas differ by up to {largest:.1e}, more than {most:.0e}; {remedy}"
        )
    return f"largest alpha difference {largest:.1e} (at most {most:.0e}), mean {mean:.1e}"


def hidden_folder(beside: Path, stack: ExitStack) -> Path:
    """A folder for files that nobody is to see yet; what an export left there that was killed is removed."""
    remove_stale(beside)
    folder = beside / temporary_name()
    folder.mkdir(parents=True, exist_ok=True)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def take_places(outputs: Sequence[Path], written: Mapping[Path, Path]) -> None:
    """Gives the files their names, and removes parts that an earlier export had and this one has not."""
    for path in (file for output in outputs for file in files_of(output)):
        if path in written:
            os.replace(written[path], path)
        else:
            remove_file(path)
        sync_folder(path.parent)


if __name__ == "__main__":
    run_script(main)
