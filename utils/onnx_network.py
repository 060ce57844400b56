"""Networks in ONNX files, run by onnxruntime where `TSRMatte` would stand."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from models import TwoStages
from models.refiner import RefinerShape
from models.student import STRIDE
from utils.checkpoint import DamagedCheckpointError, describe_error
from utils.errors import UserError
from utils.onnx_metadata import read_our_metadata

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PART_SUFFIXES = {"coarse": ".coarse.onnx", "refiner": ".refiner.onnx", "photograph": ".onnx"}  # the last ends them all
CHUNK_BYTES = 2**24
ERRORS_ONLY = 3  # of onnxruntime's log


class OnnxNetwork(TwoStages):
    """Coarse stage and refiner, each from its file; only what it predicts is there, no features.

    Args:
        coarse: The coarse stage's file.
        refiner: The refiner's, with its shape; None: there is none.
        device: Where they run.
    """

    def __init__(self, coarse: Path, refiner: tuple[Path, RefinerShape] | None, device: torch.device):
        self.student = OnnxStudent(coarse, device)
        self.refiner = None if refiner is None else OnnxRefiner(*refiner, device)


class OnnxStudent:
    """As `models.Student`, of sizes that are multiples of `STRIDE`, without features."""

    def __init__(self, path: Path, device: torch.device):
        self._run = _Session(path, device, keep_memory=True)  # it is bounded, as sizes are

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        batch, _, height, width = image.shape
        assert height % STRIDE == 0 and width % STRIDE == 0, f"multiples of {STRIDE}, not {height} x {width}"
        coarse_logits, error_logits = (image.new_empty(batch, 1, height, width) for _ in range(2))
        self._run({"image": image}, {"coarse_logits": coarse_logits, "error_logits": error_logits})
        return coarse_logits, error_logits, ()


class OnnxRefiner:
    """As `models.Refiner`."""

    def __init__(self, path: Path, shape: RefinerShape, device: torch.device):
        self.shape, self.halo_px, self.work = shape, shape.halo_px, shape.work
        self._run = _Session(path, device)

    def __call__(self, image: Tensor, coarse_logits: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        residual = image.new_empty(batch, 1, height - 2 * self.halo_px, width - 2 * self.halo_px)
        self._run({"image": image, "coarse_logits": coarse_logits}, {"residual": residual})
        return residual


class OnnxPhotograph:
    """The whole graph, from a photograph to its alpha: it refines everything, and shows nothing in between.

    Attributes:
        refiner: None: no bound on refinement applies.
    """

    refiner = None

    def __init__(self, path: Path, device: torch.device):
        self.path, self.device = path, device
        self._run = _Session(path, device)

    def alpha(self, rgb: np.ndarray) -> np.ndarray:
        """A photograph, uint8 (H, W, 3), to its alpha, float32 (H, W) in [0, 1]."""
        pixels = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None].to(self.device)
        alpha = torch.empty(1, 1, *rgb.shape[:2], device=self.device)
        self._run({"rgb": pixels}, {"alpha": alpha})
        return alpha[0, 0].cpu().numpy()

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """Of `TwoStages`, which it cannot be.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.path}: gives alphas only; put {part_path(self.path, 'coarse').name} and "
            f"{part_path(self.path, 'refiner').name} of the same export beside it"
        )


class _Session:
    """A file that onnxruntime has loaded. Tensors are handed over where they lie, on the CPU or a GPU.

    Args:
        path: The file.
        device: Where to run it.
        keep_memory: Whether what a run on the CPU needed is kept for the next: a little faster, but twice as much.
    """

    def __init__(self, path: Path, device: torch.device, *, keep_memory: bool = False):
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path}: ONNX files are run by another package: pip install onnxruntime") from error
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
        if provider is None:
            raise UserError(f"--device {device}: ONNX files do not run there; use cpu or cuda")
        if provider not in onnxruntime.get_available_providers():
            raise UserError(
                f"--device {device}: this onnxruntime does not run there; pip install onnxruntime-gpu, or --device cpu"
            )
        self._device, self._number = device.type, device.index or 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_cpu_mem_arena = keep_memory
        options.log_severity_level = ERRORS_ONLY
        given = {}
        if device.type == "cuda":  # float32 is what it says, as elsewhere; and no more memory is taken than asked for
            given = {"device_id": self._number, "use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[(provider, given)])
        except Exception as error:  # its own types; the file is whole, so it lacks something that the file needs
            raise UserError(
                f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({describe_error(error)}); update it"
            ) from error
        if session.get_providers()[0] != provider:  # it goes on without, where a library of CUDA's is missing
            raise UserError(f"--device {device}: onnxruntime finds no CUDA libraries it can use; use --device cpu")
        self._session: InferenceSession = session

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Runs the graph; `outputs` are filled."""
        binding = self._session.io_binding()
        inputs = {name: tensor.contiguous() for name, tensor in inputs.items()}  # which live until it has run
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                kind = {torch.uint8: np.uint8, torch.float32: np.float32}[tensor.dtype]
                bind(name, self._device, self._number, kind, tuple(tensor.shape), tensor.data_ptr())
        if self._device == "cuda":
            torch.cuda.current_stream(self._number).synchronize()  # onnxruntime has a stream of its own
        self._session.run_with_iobinding(binding)


def load_onnx(path: Path, device: torch.device) -> tuple[OnnxNetwork | OnnxPhotograph, dict[str, Any]]:
    """Loads an export by the name of any of its files: in two stages, if both are there, else the whole graph.

    Args:
        path: A file of the export.
        device: Where it is to run.

    Returns:
        The network, and the description in the files, as of a checkpoint.

    Raises:
        UserError: A file is missing, damaged, not ours, of an earlier version or of another export; or onnxruntime is
            missing, or cannot run there.
    """
    metadata = _read(path)
    files = {part: part_path(path, part) for part in PART_SUFFIXES}
    present = {part: file for part, file in files.items() if file.is_file()}
    for part, file in present.items():
        other = metadata if file == path else _read(file)
        if other["part"] != part:
            raise UserError(
                f"{file}: holds the part {other['part']!r}, as its name does not say; name it "
                f"NAME{PART_SUFFIXES.get(other['part'], '.onnx')}"
            )
        if other["export"] != metadata["export"]:
            raise UserError(f"{file}: of another export than {path.name}; export both again, or move it away")
    description = json.loads(metadata["tsr_matte"])
    if list(present) == ["photograph"]:
        return OnnxPhotograph(path, device), description
    network = description["network"]
    needed = ["coarse", "refiner"] if network["refiner"] else ["coarse"]
    for part in needed:
        if part not in present:
            raise UserError(f"{files[part]}: missing, and {path.name} needs it beside it; export again")
    shape = RefinerShape(network["refiner_width"], network["refiner_blocks"], network.get("gradient_map", True))
    refiner = (files["refiner"], shape) if network["refiner"] else None
    return OnnxNetwork(files["coarse"], refiner, device), description


def part_path(path: Path, part: str) -> Path:
    """The file of a part, "coarse", "refiner" or "photograph", beside any file of the same export."""
    suffix = next(suffix for suffix in PART_SUFFIXES.values() if path.name.endswith(suffix))
    return path.with_name(path.name.removesuffix(suffix) + PART_SUFFIXES[part])


def sealed(graph: bytes, metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata with the size of the graph they follow in a file, and a CRC-32 of the graph and of themselves."""
    metadata = {**metadata, "graph_bytes": str(len(graph))}
    return {**metadata, "crc32": f"{_crc32(metadata, zlib.crc32(graph)):08x}"}


def _crc32(metadata: Mapping[str, str], crc: int) -> int:
    return zlib.crc32(json.dumps(sorted(metadata.items())).encode(), crc)


def _read(path: Path) -> dict[str, str]:
    """The metadata of a file of ours, whole and of this version."""
    metadata = read_our_metadata(path)
    crc, stated = 0, metadata.pop("crc32")
    with open(path, "rb") as file:
        left = int(metadata["graph_bytes"])
        while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    if f"{_crc32(metadata, crc):08x}" != stated:
        raise DamagedCheckpointError(f"{path}: damaged, or changed by another program; export it again")
    return metadata
