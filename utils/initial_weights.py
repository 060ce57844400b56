"""Starting from the weights of another run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models import TSRMatte
from utils.checkpoint import load_checkpoint, load_weights
from utils.errors import UserError

OF_REFINER = ("refiner", "refiner_width", "refiner_blocks", "gradient_map")
OF_TRAINING = ("drop_path_rate", "zero_init")


def take_over(network: TSRMatte, architecture: Mapping[str, Any], path: Path, tell: Callable[[str], object]) -> None:
    """Loads the weights of a checkpoint; one of the two may be without refiner.

    Args:
        network: What is to start with them.
        architecture: Of the network, by the names of TSRMatte's arguments.
        path: The checkpoint.
        tell: Gets a line if a refiner is left out, or starts from scratch.

    Raises:
        UserError: The checkpoint is of another architecture; the flags that differ are named.
    """
    saved = load_checkpoint(path, "--init-from")
    if "network" not in saved:
        raise UserError(f"{path}: holds a teacher; give --init-from the best.pth of its folder")
    both_or_neither = saved["network"]["refiner"] == architecture["refiner"]
    differing = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in saved["network"].items()
        if name not in OF_TRAINING and (both_or_neither or name not in OF_REFINER) and architecture[name] != value
    ]
    if differing:
        raise UserError(f"--init-from {path} is of another architecture: give {' '.join(differing)}")
    weights = saved["model"]
    if not both_or_neither and network.refiner is not None:
        weights = {**{f"refiner.{name}": each for name, each in network.refiner.state_dict().items()}, **weights}
        tell(f"note: {path} has no refiner; it starts from scratch, the coarse stage from there")
    elif not both_or_neither:
        weights = {name: each for name, each in weights.items() if not name.startswith("refiner.")}
        tell(f"note: the refiner of {path} is left out")
    load_weights(network, weights, path)
