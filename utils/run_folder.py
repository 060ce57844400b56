"""The folder of a run: who may write there, where each file lies, and tables that survive an interruption.

config.json   what was run, with versions        teacher.pth   the frozen teacher, for reuse
log.csv       a row every few steps              last.pth      everything a resume needs
validation.csv  a row a validation               best.pth      the same, at the lowest validation SAD
teacher.csv   reconstruction error an epoch      curves.png, previews/epoch_*.png
"""

import io
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
import torchvision

from utils.errors import UserError
from utils.files import require_writable, write_atomically

BEFORE_FIRST_CHECKPOINT = {"config.json", "problems.csv", "teacher.pth"}


class RunFolder:
    """Opens a run's folder.

    Args:
        path: The folder.
        resume: Continue the run that is there; otherwise it must not exist or be empty.

    Raises:
        UserError: There is a run already, or none to resume, or other files, or the folder cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool):
        self.path = path
        self.last, self.best, self.teacher = path / "last.pth", path / "best.pth", path / "teacher.pth"
        if resume and not self.last.exists():
            raise UserError(f"--resume: no checkpoint {self.last}; start the run without --resume")
        if not resume and self.last.exists():
            raise UserError(
                f"--run-dir {path} holds a run already: continue it with --resume, or choose another folder"
            )
        # What a run leaves that was killed before its first checkpoint does not stand in the way.
        contents = list(path.iterdir()) if path.is_dir() else []
        foreign = [each for each in contents if each.suffix != ".tmp" and each.name not in BEFORE_FIRST_CHECKPOINT]
        if not resume and foreign:
            raise UserError(
                f"--run-dir {path} is not empty ({foreign[0].name}) and holds no run; choose another folder"
            )
        require_writable(path, "--run-dir")  # now, not after the first epoch


class Table:
    """A CSV file of rows that are dicts. Columns come from the first row; a row with others is a mistake of ours.

    Args:
        path: The file; rows that are there are kept.
        keep_up_to: Drop rows whose "step" is larger: they lie after the checkpoint that is resumed, and will be
            written again.
    """

    def __init__(self, path: Path, keep_up_to: int | None = None):
        self.path = path
        self.columns: list[str] | None = None
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a killed run may have left half a row
        if whole:
            table = pd.read_csv(io.StringIO(whole))
            self.columns = list(table.columns)
            if keep_up_to is not None and (table["step"] > keep_up_to).any():
                whole = table[table["step"] <= keep_up_to].to_csv(index=False)
        if whole != text:
            write_atomically(path, lambda file: file.write(whole.encode()))

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row at the end of the file."""
        first = self.columns is None
        if first:
            self.columns = list(row)
        assert list(row) == self.columns, f"{self.path}: columns {list(row)} differ from {self.columns}"
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            pd.DataFrame([row]).to_csv(file, index=False, header=first)


def to_json(value: Any) -> Any:
    """The value as JSON types: paths become text, tuples lists."""
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


FREE_ON_RESUME = {  # of the pictures, names are compared elsewhere; where they lie is free, and what changes no result
    "data_root", "backgrounds", "foregrounds", "on_bad", "max_pixels", "pretrained", "backbone_weights",
    "teacher_checkpoint", "batch_px",
}  # fmt: skip
FIXED_OF_RUN = {"seed", "precision", "validate_every"}


def refuse_differences(before: dict[str, dict], now: dict[str, dict], path: Path) -> None:
    """Compares two configs, as JSON types: what is trained must be the same, where it runs is free.

    Raises:
        UserError: A resume would train something else than the checkpoint at `path`; each difference is named.
    """
    differing = [
        f"--{name.replace('_', '-')} {before.get(section, {}).get(name)} -> {value}"
        for section, values in now.items()
        if section != "preset"
        for name, value in values.items()
        if name not in FREE_ON_RESUME and (section != "run" or name in FIXED_OF_RUN)
        if before.get(section, {}).get(name) != value
    ]
    if differing:
        raise UserError(f"--resume: {path} was trained with other settings ({'; '.join(differing)}); use the same ones")


def commit() -> str | None:
    """The commit of this program, marked if files differ from it; None where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(tool: str, arguments: Sequence[str]) -> dict[str, str | None]:
    """What a record of measurements begins with: the tool with the arguments it was given, and the commit."""
    return {"command": shlex.join(["python", "-m", tool, *arguments]), "commit": commit()}


def versions(device: torch.device) -> dict[str, str]:
    """Versions and hardware a run used."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "device": torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
    }
