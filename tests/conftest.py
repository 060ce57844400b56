"""Shared by the tests: a nano network, a checkpoint of it, embedded pictures, and scripts run inside the process."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image

# A shell starts what it puts in the background deaf to Ctrl-C, and programs hand that on to those they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # `pytest` alone does not put the project's folder there; `python -m pytest` does
    sys.path.insert(0, str(ROOT))

from models import TSRMatte  # noqa: E402
from utils.checkpoint import save_checkpoint  # noqa: E402
from utils.encoding import write_image  # noqa: E402
from utils.errors import run_script  # noqa: E402
from utils.inference import Predictor, load_model  # noqa: E402
from utils.synthetic import composite  # noqa: E402
from utils.transforms import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402

NETWORK = {
    "backbone": "nano",
    "window_size": 4,
    "decoder_width": 16,
    "coarse_stride": 2,
    "drop_path_rate": 0.0,
    "refiner": True,
    "refiner_width": 8,
    "refiner_blocks": 1,
}
PREPROCESS = {"image_size": 64, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
ROUTING = {
    "error_threshold": 0.1,
    "refine_budget": 1.0,
    "max_patches": None,
    "patch_px": 32,
    "largest_px": 256,
    "batch_px": 65536,
}


@pytest.fixture(autouse=True)
def numbers_of_threads() -> Iterator[None]:
    """Kept from one test to the next: on them depends how floats are summed, and numba's first call changes torch's."""
    of_torch, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(of_torch)
    cv2.setNumThreads(of_opencv)


def build_network(seed: int = 0, **changes: Any) -> TSRMatte:
    """A nano network in eval mode whose logits vary over the picture and whose refiner does something."""
    torch.manual_seed(seed)
    network = TSRMatte(**{**NETWORK, **changes}).eval()
    with torch.no_grad():
        # As initialised, all logits are close to 0. Some patches are routed, most are not.
        for head, scale, bias in ((network.student.alpha_head, 4, 1.8), (network.student.error_head, 8, 0.0)):
            head.weight.mul_(scale)
            head.bias.fill_(bias)
        if network.refiner is not None:
            torch.nn.init.normal_(network.refiner.last.weight, std=0.3)
            network.refiner.last.bias.fill_(0.4)
    return network


@pytest.fixture(scope="session")
def make_network() -> Callable[..., TSRMatte]:
    """`make_network(seed, **changes)`: see `build_network`."""
    return build_network


@pytest.fixture(scope="session")
def checkpoint_state() -> dict[str, Any]:
    """What a checkpoint of the nano network holds. Not to be changed by a test."""
    weights = build_network().state_dict()
    return {"config": {}, "network": NETWORK, "preprocess": PREPROCESS, "routing": ROUTING, "model": weights}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, checkpoint_state: dict[str, Any]) -> Path:
    """A .pth written by `save_checkpoint`. Not to be changed by a test."""
    path = tmp_path_factory.mktemp("run") / "best.pth"
    save_checkpoint(path, checkpoint_state)
    return path


@pytest.fixture(scope="session")
def predictor(checkpoint: Path) -> Predictor:
    """The nano network, ready to predict on the CPU in float32."""
    return load_model(checkpoint)


@pytest.fixture(scope="session")
def make_pair() -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """`make_pair(height, width)`: rgb uint8 (H, W, 3) and alpha uint8 (H, W) of an embedded picture, any size."""
    drawn = composite(0, 3, height=240, width=360)

    def make_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        size = (width, height)
        rgb = cv2.resize(drawn.rgb, size, interpolation=cv2.INTER_LINEAR)
        return rgb, cv2.resize(drawn.alpha, size, interpolation=cv2.INTER_LINEAR).reshape(height, width)

    return make_pair


@pytest.fixture
def write_photographs(make_pair: Callable) -> Callable[[Path, list[str]], None]:
    """`write_photographs(folder, [name, ...])`: each of another size, in the format that its name says."""

    def write_photographs(folder: Path, names: list[str]) -> None:
        for index, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_pair(40 + index, 50)[0]).save(path)

    return write_photographs


@pytest.fixture
def write_pairs(make_pair: Callable) -> Callable[..., list[str]]:
    """`write_pairs(folder, {name: (height, width)})` writes folder/im/NAME.png and folder/gt/NAME.png."""

    def write_pairs(folder: Path, sizes: dict[str, tuple[int, int]]) -> list[str]:
        for name, size in sizes.items():
            rgb, alpha = make_pair(*size)
            write_image(folder / "im" / f"{name}.png", rgb)
            write_image(folder / "gt" / f"{name}.png", alpha)
        return list(sizes)

    return write_pairs


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks timm for pretrained weights, or opens a network connection, fails the test."""
    create = timm.create_model

    def offline_create(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("pretrained"):
            pytest.fail("pretrained weights were asked for")
        return create(*args, **kwargs)

    def refused(*_: Any, **__: Any) -> None:
        pytest.fail("a network connection was opened")

    monkeypatch.setattr(timm, "create_model", offline_create)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, to which goes what is remembered of checked files."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class Finished(NamedTuple):
    """How a script ended: its status, what it printed, and the files and folders below the test's folder it made."""

    status: int
    out: str
    err: str
    created: list[str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Finished]:
    """`run(script.main, "--flag", value)` runs a script as the shell would, in the empty folder tmp_path/cwd."""
    working = tmp_path / "cwd"
    working.mkdir()
    monkeypatch.chdir(working)

    def tree() -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}

    def run(main: Callable[[], int], *arguments: Any) -> Finished:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        before = tree()
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_script(main)
        out, err = capsys.readouterr()
        return Finished(stop.value.code or 0, out, err, sorted(tree() - before))

    return run


@pytest.fixture
def refused(run: Callable[..., Finished]) -> Callable[..., str]:
    """`refused(script.main, ...)` expects wrong use: status 2, one line on stderr, nothing made. Returns the line."""

    def refused(main: Callable[[], int], *arguments: Any) -> str:
        finished = run(main, *arguments)
        assert finished.status == 2, finished
        lines = [
            line for line in finished.err.splitlines() if line.strip() and "%|" not in line
        ]  # bars are no messages
        assert len(lines) == 1 and lines[0].startswith("error: "), finished.err
        assert finished.created == []
        return lines[0]

    return refused
