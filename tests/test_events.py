"""utils.events: what TensorBoard reads back is what was added, once."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.errors import UserError
from utils.events import Events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each tag, as TensorBoard shows them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("tensorboard")


def test_rows_are_read_back(tmp_path: Path) -> None:
    events = Events(tmp_path / "new" / "events", first_step=1)
    row: dict[str, Any] = {"step": 20, "epoch": 1, "total": 0.5, "gradient_norm": np.float32(0.25), "files": "a.png"}
    events.add(20, {**row, "scale": None, "resumed": True})
    events.add(40, {"step": 40, "epoch": 1, "total": 0.25})
    events.add(40, {"SAD": 3.5}, group="validation")
    assert scalars(tmp_path / "new" / "events") == {
        "train/epoch": [(20, 1.0), (40, 1.0)],
        "train/total": [(20, 0.5), (40, 0.25)],
        "train/gradient_norm": [(20, 0.25)],
        "validation/SAD": [(40, 3.5)],
    }
    events.close()


def test_a_killed_run_has_lost_no_row(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from utils.events import Events
events = Events(Path({str(tmp_path)!r}), 1)
for step in range(1, 6):
    events.add(step, {{f"term_{{number}}": 1.0 for number in range(10)}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [len(rows) for rows in scalars(tmp_path).values()] == [5] * 10


def test_a_resumed_run_is_drawn_once(tmp_path: Path) -> None:
    """Killed after step 50, with a checkpoint at 30; then once more, before it had added anything."""
    for first_step, last_step, value in ((1, 50, 1.0), (31, 30, 2.0), (31, 60, 3.0)):
        events = Events(tmp_path, first_step)
        for step in range(first_step, last_step + 1):
            if step % 10 == 0:
                events.add(step, {"total": value})
        events.close()
    drawn = scalars(tmp_path)["train/total"]
    assert drawn == [(10, 1.0), (20, 1.0), (30, 1.0), (40, 3.0), (50, 3.0), (60, 3.0)]


def test_without_tensorboard_the_flag_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it could not be imported
    with pytest.raises(UserError, match=r"--tensorboard.*pip install tensorboard"):
        Events(tmp_path / "events", 1)
    assert list(tmp_path.iterdir()) == []


def test_importing_asks_for_no_tensorboard() -> None:
    code = "import sys; import utils.events; assert 'tensorboard' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


def test_a_full_disk_is_one_error_with_the_folder(tmp_path: Path) -> None:
    """TensorBoard writes in a thread of its own: the error must reach the run, which must not wait for ever."""
    code = f"""
import resource
from pathlib import Path
from utils.errors import UserError
from utils.events import Events
events = Events(Path({str(tmp_path / "events")!r}), 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    for step in range(1000):
        events.add(step, {{f"term_{{number}}": 1.0 for number in range(10)}})
except UserError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "events") in done.stdout and "File too large" in done.stdout and "free space" in done.stdout
