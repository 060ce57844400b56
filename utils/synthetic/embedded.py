"""Writing the embedded data: a training and a validation set of composites, in the tree of any custom dataset."""

import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import UserError
from utils.files import write_atomically
from utils.parallel import in_processes
from utils.synthetic.composites import composite, recipe_name
from utils.synthetic.subjects import RECIPES

VERSION = 4  # of the pictures: raise it with every change of what any seed draws
VAL_FIRST_INDEX = 1_000_000  # validation pictures are numbered from here on: no seed shares one with training
MANIFEST = "manifest.json"
_PARAMETERS = {"version", "train", "val", "seed", "long_side"}  # what a manifest says
_PICTURE = re.compile(rf"\d{{7}}_({'|'.join(RECIPES)})\.(jpg|png)")
_UNFINISHED = re.compile(r"\.\d+-\d+\.tmp")  # what utils.files.write_atomically leaves when it is killed
ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16)  # width over height


def write_embedded(
    root: Path,
    *,
    train: int,
    val: int,
    long_side: tuple[int, int],
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Writes the embedded data: root/{train,val}/im/NAME.jpg and gt/NAME.png, and root/manifest.json last of all.

    Returns at once where the manifest says that these very pictures are there. An interrupted run is taken up where it
    stopped; other parameters or another `VERSION` replace the pictures. One caller at a time for one root.

    Args:
        train, val: Numbers of pictures.
        long_side: Least and greatest length of a picture's longer side in pixels, inclusive.
        workers: Processes; None for one a CPU core of this process, 1 for none but this one.
    """
    if train < 0 or val < 0 or seed < 0 or not 1 <= long_side[0] <= long_side[1] or train > VAL_FIRST_INDEX:
        raise UserError(f"embedded data cannot be made from {train=}, {val=}, {seed=}, {long_side=}")
    root, manifest = Path(root), Path(root) / MANIFEST
    started = manifest.with_name(f".{MANIFEST}.started")  # says whose pictures an interrupted run has left
    wanted = {"version": VERSION, "train": train, "val": val, "seed": seed, "long_side": list(long_side)}
    if _read_manifest(manifest) == wanted:
        return
    if manifest.exists() and _read_manifest(manifest) is None:
        raise _somebody_elses(root, MANIFEST)
    _clear(root, everything=any(path.exists() and _read_manifest(path) != wanted for path in (manifest, started)))
    manifest.unlink(missing_ok=True)
    for folder in ("train/im", "train/gt", "val/im", "val/gt"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    started.write_text(json.dumps(wanted))

    jobs = [("train", index) for index in range(train)]
    jobs += [("val", index) for index in range(VAL_FIRST_INDEX, VAL_FIRST_INDEX + val)]
    jobs = [(split, index) for split, index in jobs if not all(path.exists() for path in _paths(root, split, index))]
    write = partial(_write_pair, root, seed, long_side)
    workers = workers if len(jobs) >= 16 else 1  # few are made before processes have started
    for _ in in_processes(write, jobs, desc="embedded data", unit="image", num_workers=workers):
        pass
    os.replace(started, manifest)


def has_embedded(root: Path) -> bool:
    """Whether complete embedded data of this `VERSION` lies at `root`, whatever its sizes and numbers."""
    found = _read_manifest(root / MANIFEST)
    return found is not None and found["version"] == VERSION


def _write_pair(root: Path, seed: int, long_side: tuple[int, int], job: tuple[str, int]) -> None:
    """Makes one picture; each file appears under its name only when it is complete."""
    split, index = job
    rng = np.random.default_rng([seed, index, 4])
    longer, aspect = int(rng.integers(long_side[0], long_side[1] + 1)), rng.choice(ASPECTS)
    height, width = max(1, round(longer / max(1, aspect))), max(1, round(longer * min(1, aspect)))
    picture = composite(seed, index, height=height, width=width)
    image_path, alpha_path = _paths(root, split, index)
    for path, pixels, options in (
        (image_path, picture.rgb, {"format": "JPEG", "quality": 95, "subsampling": 0}),
        (alpha_path, picture.alpha, {"format": "PNG"}),
    ):
        image = Image.fromarray(pixels)
        write_atomically(path, lambda file, image=image, options=options: image.save(file, **options))


def _paths(root: Path, split: str, index: int) -> tuple[Path, Path]:
    name = f"{index:07d}_{recipe_name(index)}"
    return root / split / "im" / f"{name}.jpg", root / split / "gt" / f"{name}.png"


def _clear(root: Path, *, everything: bool) -> None:
    """Removes unfinished files and, where they are of other parameters, the pictures; nobody else's files.

    Raises:
        UserError: there are files that this program did not write; nothing was removed.
    """
    folders = [root / folder for folder in ("train/im", "train/gt", "val/im", "val/gt")]
    found = [path for folder in folders if folder.exists() for path in folder.iterdir()]
    for path in found:
        if not (_PICTURE.fullmatch(path.name) or _UNFINISHED.fullmatch(path.name)):
            raise _somebody_elses(root, path.name)
    for path in found:
        if everything or _UNFINISHED.fullmatch(path.name):
            path.unlink()


def _somebody_elses(root: Path, name: str) -> UserError:
    return UserError(
        f"{root} holds files that are not the embedded data's ({name}): for your own photographs "
        "add --dataset custom, or choose another folder"
    )


def _read_manifest(path: Path) -> dict | None:
    """What `write_embedded` has written there; None where there is nothing, or a file of the name but not of ours."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() == _PARAMETERS else None
