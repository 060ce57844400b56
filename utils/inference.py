"""From a checkpoint and a photograph to an alpha: the one inference path of validation, eval, predict and export.

predictor = load_model("checkpoints/demo/best.pth")
alpha = predict_alpha(predictor, rgb)          # rgb uint8 (H, W, 3) -> float32 (H, W) in [0, 1]
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models import MattingOutput, Refiner, Routing, TSRMatte, TwoStages
from utils.checkpoint import describe_error, load_checkpoint, load_weights
from utils.errors import UserError
from utils.memory import OutOfMemory, free_cached, keep_memory_of, lack_of_memory_told
from utils.onnx_network import OnnxPhotograph, OnnxRefiner, load_onnx
from utils.transforms import Preprocess, to_tensor

if TYPE_CHECKING:
    from utils.distributed import Processes

# A small network that comes with the code (its card lies beside it), for whoever has trained none yet.
START = Path(__file__).resolve().parents[1] / "checkpoints" / "start" / "best.pth"
Result = TypeVar("Result")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class Predictor:
    """A network with all that is needed to use it.

    Attributes:
        network: In eval mode where it predicts. An `OnnxPhotograph` gives the alpha only, by `predict_alpha`.
        preprocess: How photographs are fed to it.
        routing: Which patches are refined.
        device: Where it runs.
        precision: "bf16", "fp16" or "fp32": arithmetic of the network; the alpha is always float32.
    """

    network: TwoStages | OnnxPhotograph
    preprocess: Preprocess
    routing: Routing
    device: torch.device
    precision: str = "fp32"


def select_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1" ... to a device that exists.

    Raises:
        UserError: There is no such device; never a silent CPU run.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise UserError(f"--device {name}: networks do not run there; use auto, cpu, cuda, cuda:N or mps")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not usable here; use --device cpu or cuda") from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 is what it says; bf16 is the fast mode
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run at "bf16", "fp16" or "fp32"."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def newest_best(folder: Path) -> Path:
    """The newest best.pth of the runs in `folder`; without any, the checkpoint to start from that comes with the code.

    Raises:
        UserError: There is neither.
    """
    found = sorted(set(folder.glob("*/best.pth")) - {folder / START.parent.name / START.name}, key=_modified)
    if found:
        return found[-1]
    if not START.is_file():
        raise UserError(
            f"no best.pth below {folder.resolve()}: train one (python train.py demo) or give --checkpoint FILE"
        )
    return START


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def load_model(path: str | Path, device: str = "cpu", precision: str = "fp32") -> Predictor:
    """Rebuilds the network from the description inside the checkpoint, strictly, without downloading anything.

    On a CPU, the process keeps the memory of the coarse stage from then on (`keep_memory_of`).

    Args:
        path: A .pth of train.py's, an exported .pth or .safetensors, or any .onnx of an export, which onnxruntime runs.
        device: As `select_device` takes it.
        precision: "bf16", "fp16" or "fp32"; an .onnx is "fp32" to its callers, whatever it computes in.

    Raises:
        UserError: The file is missing, damaged or not ours, its weights do not fit, or the device does not exist.
    """
    path = Path(path)
    torch_device = select_device(device)
    if precision not in AUTOCAST:
        raise UserError(f"--precision {precision}: unknown; choose from {', '.join(AUTOCAST)}")
    if path.suffix == ".onnx":
        if precision != "fp32":
            raise UserError(
                f"--precision {precision}: {path.name} computes in what it was exported in; leave it out, or export it "
                "with --dtype float16"
            )
        with _description_of(path):
            network, state = load_onnx(path, torch_device)
            return Predictor(network, *_settings(state), torch_device)
    state = load_checkpoint(path)
    if "network" not in state:
        raise UserError(f"{path}: holds a teacher, which takes no part in inference; give the best.pth of its folder")
    with _description_of(path):
        # Whatever the file says, nothing is downloaded and no other file is read.
        network = TSRMatte(**{**state["network"], "pretrained": False, "backbone_weights": None})
        preprocess, routing = _settings(state)
    load_weights(network, state["model"], path)
    return Predictor(for_inference(network, torch_device), preprocess, routing, torch_device, precision)


def _settings(description: Mapping[str, Any]) -> tuple[Preprocess, Routing]:
    return Preprocess(**description["preprocess"]), Routing(**description["routing"])


@contextmanager
def _description_of(path: Path) -> Iterator[None]:
    """Around the use of what a file says of itself: whatever does not fit becomes an error that names the file."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its description does not fit this version ({describe_error(error)})") from error


def load_together(
    checkpoint: Path | None, runs: Path, world: "Processes", precision: str, effort: Mapping[str, Any]
) -> tuple[Predictor, Path]:
    """`load_model` and `with_effort` in every process; an error that all meet is told once.

    Args:
        checkpoint: The file; None: the newest best one of the runs.
        runs: Their folder.
        world: The processes, on their devices.
        precision: As `load_model` takes it.
        effort: Arguments of `with_effort`.

    Returns:
        The predictor, and the file it comes from.
    """
    found = world.first(lambda: checkpoint or newest_best(runs))
    return world.each(lambda: with_effort(load_model(found, str(world.device), precision), **effort)), found


def for_inference(network: TSRMatte, device: torch.device) -> TSRMatte:
    """The same network on a device, prepared to predict fast: its alphas differ by rounding only.

    It is changed in place, and on a CPU the process keeps the memory of its coarse stage from then on.
    """
    if device.type == "cpu":
        keep_memory_of(network.student)
    for module in network.modules():
        if hasattr(module, "fused_attn"):  # timm leaves the attention of Swin in steps, with all its scores in memory
            module.fused_attn = True
    # Swin's feature maps have their channels last: so no convolution of the decoder reorders them.
    return network.eval().to(device, memory_format=torch.channels_last)


def with_effort(
    predictor: Predictor,
    *,
    refine_budget: float | None = None,
    max_patches: int | None = None,
    memory_limit: float | None = None,
) -> Predictor:
    """The same predictor with other bounds on refinement; what is None stays as the checkpoint says.

    Args:
        predictor: From `load_model`.
        refine_budget: Largest share of a photograph's pixels that is refined, in [0, 1].
        max_patches: Most patches.
        memory_limit: GB (10^9 bytes) that what is refined at a time may need at most; never is it more than without.

    Raises:
        UserError: Not even one patch fits into the memory, or a bound is given and there is no refiner.
    """
    bounds = (refine_budget, max_patches, memory_limit)
    if predictor.network.refiner is None and any(bound is not None for bound in bounds):
        reason = "has no refiner"
        if isinstance(predictor.network, OnnxPhotograph):
            reason = f"is the whole graph, {predictor.network.path.name}, which refines everything"
        raise UserError(f"--refine-budget, --max-patches, --memory-limit: the checkpoint {reason}; leave them out")
    given = {"refine_budget": refine_budget, "max_patches": max_patches}
    routing = replace(predictor.routing, **{name: value for name, value in given.items() if value is not None})
    if memory_limit is not None:
        most = batch_px_within(predictor.network.refiner, memory_limit * 1e9, routing, predictor.precision)
        routing = replace(routing, batch_px=min(routing.batch_px, most))  # more is no faster
    return replace(predictor, routing=routing)


def batch_px_within(refiner: Refiner | OnnxRefiner, limit_bytes: float, routing: Routing, precision: str) -> int:
    """The largest `Routing.batch_px` with which refinement needs no more than so much memory at a time.

    What the coarse stage needs, and the photograph itself (its 3 bytes a pixel and 4 of logits), are not counted; nor
    is what a GPU's convolutions need in between.

    Args:
        refiner: The refiner.
        limit_bytes: Of memory.
        routing: Its patches; its own `batch_px` plays no part.
        precision: "bf16", "fp16" or "fp32".

    Raises:
        UserError: Not even one of the largest patches fits.
    """
    dtype = AUTOCAST[precision] or torch.float32
    # For a pixel: four maps of the blocks at a time, each with a position for 2x2 pixels, and colours, coarse logits
    # and their places in float32.
    pixel_bytes = 4 * refiner.shape.width / 4 * dtype.itemsize + 64
    batch_px, patch_px = int(limit_bytes / pixel_bytes), (routing.largest_px + 2 * refiner.halo_px) ** 2
    if batch_px < patch_px:
        raise UserError(
            f"--memory-limit {limit_bytes / 1e9:g}: a patch of {routing.largest_px} px needs "
            f"{patch_px * pixel_bytes / 1e9:.3f} GB; raise it"
        )
    return batch_px


@torch.inference_mode()
def predict(predictor: Predictor, rgb: np.ndarray) -> MattingOutput:
    """Runs the network on one photograph of any size.

    Args:
        predictor: From `load_model`.
        rgb: uint8 (H, W, 3).

    Returns:
        Coarse and error logits at the coarse stage's size, refined logits (1, 1, H, W), float32, at the photograph's.
    """
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, (
        f"uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}"
    )
    preprocess, device, pixels = predictor.preprocess, predictor.device, to_tensor(rgb)
    image = preprocess.coarse(pixels)  # here, not on a GPU, which would need the whole picture in float32 for it
    with autocast(device, predictor.precision):
        return predictor.network.predict(
            image[None].to(device),
            pixels[None].to(device),
            normalise=preprocess.normalise,
            routing=predictor.routing,
        )


def within_memory(predictor: Predictor, work: Callable[[Predictor], Result]) -> tuple[Result, bool]:
    """Lets a network predict; where memory runs out, fewer patches are refined at a time, to the same result.

    Args:
        predictor: From `load_model`.
        work: Predicts with the predictor that it is given.

    Returns:
        What the work returned, and whether it took fewer patches at a time.

    Raises:
        UserError: The memory does not suffice for a single patch either.
    """
    routing = predictor.routing
    fewer = () if predictor.network.refiner is None else (max(1, routing.batch_px // 8), 1)
    for batch_px in (routing.batch_px, *fewer):
        try:
            with lack_of_memory_told():
                result = work(replace(predictor, routing=replace(routing, batch_px=batch_px)))
                return result, batch_px != routing.batch_px
        except OutOfMemory:
            pass  # the exception holds what was computed: that is free only after this
        free_cached(predictor.device)
    raise OutOfMemory


def to_alpha(logits: Tensor, out: Tensor | None = None) -> np.ndarray:
    """Logits (1, 1, H, W) to the alpha, float32 (H, W) in [0, 1]: the one sigmoid at the edge; `out` may take it."""
    return torch.sigmoid(logits.float(), out=out)[0, 0].cpu().numpy()


@torch.inference_mode()
def predict_alpha(predictor: Predictor, image: np.ndarray | Image.Image) -> np.ndarray:
    """One photograph to its alpha.

    Args:
        predictor: From `load_model`.
        image: uint8 (H, W, 3), or a PIL image with 8 bits a channel, which is turned upright as its EXIF orientation
            says. Of files of other kinds than RGB and grey, `utils.images.read_rgb` knows more than Pillow: colour
            profiles of CMYK, and more than 8 bits.

    Returns:
        float32 (H, W) in [0, 1].

    Raises:
        UserError: It is neither, or empty, or the PIL image has more bits.
    """
    rgb = image
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):  # Pillow would clip it
            raise UserError(f"a PIL image of mode {image.mode} has more than 8 bits a channel; give uint8 (H, W, 3)")
        rgb = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        given = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise UserError(f"uint8 (H, W, 3) or a PIL image is expected, not {given}")
    if isinstance(predictor.network, OnnxPhotograph):
        return predictor.network.alpha(rgb)
    logits = predict(predictor, rgb).refined_logits
    return to_alpha(logits, out=logits)  # nobody sees the logits: large photographs need no second plane
