"""From a checkpoint and a photograph to an alpha: the one inference path of validation, eval, predict and export.

predictor = load_model("checkpoints/demo/best.pth")
alpha = predict_alpha(predictor, rgb)          # rgb uint8 (H, W, 3) -> float32 (H, W) in [0, 1]
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import MattingOutput, Routing, TSRMatte
from utils.checkpoint import describe_error, load_checkpoint, load_weights
from utils.errors import UserError
from utils.transforms import Preprocess, to_tensor

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class Predictor:
    """A network with all that is needed to use it.

    Attributes:
        network: In eval mode where it predicts.
        preprocess: How photographs are fed to it.
        routing: Which patches are refined; None refines everything.
        device: Where it runs.
        precision: "bf16", "fp16" or "fp32": arithmetic of the network; the alpha is always float32.
    """

    network: TSRMatte
    preprocess: Preprocess
    routing: Routing | None
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
    """The newest best.pth of the runs in `folder`.

    Raises:
        UserError: There is none.
    """
    found = sorted(folder.glob("*/best.pth"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"no best.pth below {folder.resolve()}: train one (python train.py demo) or give --checkpoint FILE"
        )
    return found[-1]


def load_model(path: str | Path, device: str = "cpu", precision: str = "fp32") -> Predictor:
    """Rebuilds the network from the description inside the checkpoint, strictly, without downloading anything.

    Args:
        path: A .pth of train.py's or an exported .pth or .safetensors.
        device: As `select_device` takes it.
        precision: "bf16", "fp16" or "fp32".

    Raises:
        UserError: The file is missing, damaged or not ours, its weights do not fit, or the device does not exist.
    """
    path = Path(path)
    torch_device = select_device(device)
    state = load_checkpoint(path)
    if "network" not in state:
        raise UserError(f"{path}: holds a teacher, which takes no part in inference; give the best.pth of its folder")
    try:
        # Whatever the file says, nothing is downloaded and no other file is read.
        network = TSRMatte(**{**state["network"], "pretrained": False, "backbone_weights": None})
        preprocess = Preprocess(**state["preprocess"])
        routing = Routing(**state["routing"])
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its description does not fit this version ({describe_error(error)})") from error
    load_weights(network, state["model"], path)
    return Predictor(network.eval().to(torch_device), preprocess, routing, torch_device, precision)


@torch.inference_mode()
def predict(predictor: Predictor, rgb: np.ndarray) -> MattingOutput:
    """Runs the network on one photograph of any size.

    Args:
        predictor: From `load_model`.
        rgb: uint8 (H, W, 3).

    Returns:
        Logits (1, 1, H, W), float32, at the photograph's own resolution.
    """
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, (
        f"uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}"
    )
    pixels = to_tensor(rgb).to(predictor.device)
    image, native = (make(pixels)[None] for make in (predictor.preprocess.coarse, predictor.preprocess.normalise))
    with autocast(predictor.device, predictor.precision):
        return predictor.network(image, native, routing=predictor.routing)


def to_alpha(logits: Tensor) -> np.ndarray:
    """Logits (1, 1, H, W) to the alpha, float32 (H, W) in [0, 1]: the one sigmoid at the edge."""
    return torch.sigmoid(logits.float())[0, 0].cpu().numpy()


def predict_alpha(predictor: Predictor, rgb: np.ndarray) -> np.ndarray:
    """One photograph, uint8 (H, W, 3), to its alpha, float32 (H, W) in [0, 1]."""
    return to_alpha(predict(predictor, rgb).refined_logits)
