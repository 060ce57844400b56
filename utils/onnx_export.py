"""Writes ONNX files: the coarse stage, the refiner, and both in one graph from a photograph to its alpha.

    model.onnx            rgb, uint8 (B, 3, H, W), to alpha (B, 1, H, W) in [0, 1], refined everywhere
    model.coarse.onnx     image (B, 3, h, w) to coarse_logits and error_logits (B, 1, h, w); h, w multiples of `STRIDE`
    model.refiner.onnx    image (N, 3, s + 2 * halo_px, t + 2 * halo_px) and coarse_logits of that size to the residual
                          (N, 1, s, t); s, t multiples of `CELL_PX`

All sizes are free. What is not bytes is float32; a float16 file computes in float16 where that is precise enough. Each
file says in its metadata what it is, what it was made of and how it is fed.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from models import Refiner, Student, TSRMatte
from models.refiner import CELL_PX
from models.student import STRIDE
from utils.checkpoint import FORMAT, checksum
from utils.errors import UserError
from utils.files import sync_folder, write_atomically
from utils.inference import Predictor
from utils.onnx_network import part_path, sealed
from utils.onnx_photograph import photograph_model
from utils.onnx_windows import OPSET, expand, for_exporter, texts_of

if TYPE_CHECKING:
    from onnx import ModelProto

MOST_BYTES = 2**31 - 1  # of a protocol buffer
MOST_STEPS = 4096  # of a side of an input; a bound the exporter wants, which nothing asks for later


def export_onnx(predictor: Predictor, path: Path, *, dtype: str, description: Mapping[str, Any]) -> list[Path]:
    """Writes a network as ONNX files, each atomically.

    Args:
        predictor: The network and how it is fed.
        path: Of the whole graph, NAME.onnx. The parts are NAME.coarse.onnx and, if there is a refiner,
            NAME.refiner.onnx.
        dtype: "float32" or "float16", of weights and arithmetic.
        description: What a .safetensors says of itself: JSON types, with the keys of `utils.checkpoint.DESCRIPTION`.

    Returns:
        The files written.

    Raises:
        UserError: A package is missing, the name is that of a part, the network came from an ONNX file, or a file
            cannot be written.
    """
    network, preprocess = predictor.network, predictor.preprocess
    if not isinstance(network, TSRMatte):
        raise UserError("an ONNX file cannot be exported again; give --checkpoint the .pth it was made of")
    if path != part_path(path, "photograph"):
        raise UserError(f"{path}: the name of a part; give --output {part_path(path, 'photograph')}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{path}: ONNX files are written by two more packages: pip install onnx onnxscript") from error
    weights, halo_px = getattr(torch, dtype), 0 if network.refiner is None else network.refiner.halo_px
    with _silence():
        models = {"coarse": _coarse_model(network.student, weights)}
        if network.refiner is not None:
            models["refiner"] = _refiner_model(network.refiner, weights)
        models["photograph"] = photograph_model(models["coarse"], models.get("refiner"), preprocess, halo_px)

    text = json.dumps({"format": FORMAT, **description})
    about = {
        "format": FORMAT,
        "dtype": dtype,
        "mean": json.dumps(preprocess.mean),
        "std": json.dumps(preprocess.std),
        "image_size": json.dumps(preprocess.image_size),
        "keep_aspect": json.dumps(preprocess.keep_aspect),
        "input_multiple": json.dumps(STRIDE),
        "patch_multiple": json.dumps(CELL_PX),
        "halo_px": json.dumps(halo_px),
        "export": f"{checksum(network.state_dict(), dtype + text):08x}",  # what belongs together has the same
        "tsr_matte": text,
    }
    paths = {part: part_path(path, part) for part in models}
    for part, model in models.items():
        _write(paths[part], model, {"part": part, **about})
    sync_folder(path.parent)
    return list(paths.values())


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns and logs about itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _write(path: Path, model: "ModelProto", metadata: Mapping[str, str]) -> None:
    """A file with its metadata at its end, behind what the checksum in it is of."""
    from onnx import ModelProto, helper

    if model.ByteSize() > MOST_BYTES:
        raise UserError(f"{path}: larger than 2 GB, which an ONNX file cannot be; export with --dtype float16")
    graph, about = model.SerializeToString(), ModelProto()
    helper.set_model_props(about, sealed(graph, metadata))
    # One after the other, two protocol buffers are one with the fields of both.
    content = graph + about.SerializeToString()
    write_atomically(path, lambda file: file.write(content), size_bytes=len(content))


class _Coarse(nn.Module):
    """The coarse stage without the features, which only training uses."""

    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.student.forward(image)[:2]  # not a call: hooks are of no use here


def _coarse_model(student: Student, dtype: torch.dtype) -> "ModelProto":
    network = _Coarse(for_exporter(student, dtype))
    rows, columns = Dim("h", min=1, max=MOST_STEPS), Dim("w", min=1, max=MOST_STEPS)
    # Two pictures of unlike sides, none of them 1: else the exporter would fix, or tie, what is to be free.
    return _export(
        network,
        {"image": torch.zeros(2, 3, 3 * STRIDE, 5 * STRIDE)},
        {0: Dim("batch", min=1, max=MOST_STEPS), 2: STRIDE * rows, 3: STRIDE * columns},
        ["coarse_logits", "error_logits"],
    )


def _refiner_model(refiner: Refiner, dtype: torch.dtype) -> "ModelProto":
    refiner = copy.deepcopy(refiner).cpu().to(dtype, memory_format=torch.contiguous_format).eval().requires_grad_(False)
    least = refiner.halo_px + 1  # cells of the smallest patch, one cell, with its halo
    rows, columns = (Dim(name, min=least, max=MOST_STEPS * least) for name in ("s", "t"))
    height, width = ((least + more) * CELL_PX for more in (3, 5))
    return _export(
        refiner,
        {"image": torch.zeros(2, 3, height, width), "coarse_logits": torch.zeros(2, 1, height, width)},
        {0: Dim("patches", min=1, max=MOST_STEPS), 2: CELL_PX * rows, 3: CELL_PX * columns},
        ["residual"],
    )


def _export(
    network: nn.Module, inputs: Mapping[str, Tensor], sizes: Mapping[int, Any], outputs: list[str]
) -> "ModelProto":
    """A network as a model of ONNX's own operators; `sizes` names the free sides of all inputs."""
    with torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=(sizes,) * len(inputs),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            optimize=False,  # once, in `expand`
            verbose=False,
        )
    return expand(program.model_proto, texts_of(program.model_proto))
