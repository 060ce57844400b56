"""Ways to train: from other weights, with parts frozen, until nothing improves; and what happens when it goes wrong."""

import contextlib
import io
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from training import Stopped, assert_same_runs, same, stopped_at, tiny

import train
from config import RunConfig
from utils import validation
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.inference import load_model, predict
from utils.learner import Learner
from utils.synthetic import write_embedded

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(train.__file__).parent
OPTIONS = ["--epochs", 2, "--batch-size", 4, "--log-every", 2, "--previews", 0]  # two steps an epoch
NO_TEACHER = ["--teacher", "none"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Five training and two validation pairs, below 100 px."""
    root = tmp_path_factory.mktemp("pictures")
    write_embedded(root, train=5, val=2, long_side=(72, 96), workers=1)
    return root


def options(pictures: Path, folder: Path, *more: object) -> list[str]:
    places = ["--dataset", "custom", "--data-root", pictures, "--run-dir", folder]
    return tiny(*places, *OPTIONS, *more)


def train_here(patch: pytest.MonkeyPatch, pictures: Path, folder: Path, *more: object) -> Path:
    """train.py in this process; what it raises is what a user would read. Returns the run's folder."""
    patch.setattr("sys.argv", ["train.py", *options(pictures, folder, *more)])
    assert train.main() == 0
    return folder


def no_picture(*_: object) -> None:
    """Curves take longer to draw than an epoch to train."""


def made(pictures: Path, folder: Path, *more: object) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)  # what is remembered of checked files goes to the working directory
        patch.setattr(validation, "save_curves", no_picture)
        return train_here(patch, pictures, folder, *more)


@pytest.fixture(scope="module")
def source(pictures, tmp_path_factory) -> Path:
    """A run with teacher and refiner, to be started from, and the one that others are compared with."""
    return made(pictures, tmp_path_factory.mktemp("source") / "run")


@pytest.fixture(scope="module")
def plain(pictures, tmp_path_factory) -> Path:
    """A run without either."""
    return made(pictures, tmp_path_factory.mktemp("plain") / "run", *NO_TEACHER, "--no-refiner", "--epochs", 1)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    monkeypatch.setattr(validation, "save_curves", no_picture)


def touched(folder: Path) -> dict[Path, int]:
    """When each file was written last; the lock says who was there last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


# ---------------------------------------------------------------------------------------------- --init-from


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_it_starts_at_the_weights_of_another_run(monkeypatch, tmp_path, pictures, source, ema_decay):
    more = [*NO_TEACHER, "--init-from", source / "best.pth", "--ema-decay", ema_decay]
    with stopped_at(train.Trainer, "train_epoch"):
        train_here(monkeypatch, pictures, tmp_path / "run", *more)
    wanted, last = (load_checkpoint(path) for path in (source / "best.pth", tmp_path / "run" / "last.pth"))
    assert last["training"]["step"] == 0 and last["position"]["epoch"] == 0
    assert same(last["model"], wanted["model"])
    network = {k.removeprefix("network."): v for k, v in last["training"]["module"].items() if k.startswith("network.")}
    assert same(dict(network), dict(wanted["model"]))


def test_nothing_is_downloaded_that_other_weights_replace(monkeypatch, tmp_path, pictures, source):
    asked = []

    def network(**arguments: Any) -> None:
        asked.append((arguments["pretrained"], arguments["backbone_weights"]))
        raise Stopped

    monkeypatch.setattr(train, "TSRMatte", network)
    for number, more in enumerate(([], ["--init-from", source / "best.pth"])):
        with pytest.raises(Stopped):
            train_here(monkeypatch, pictures, tmp_path / str(number), "--backbone", "tiny", "--pretrained", *more)
    assert asked == [(True, None), (False, None)]


def test_weights_that_do_not_fit_are_refused(run, tmp_path, pictures, source):
    """One line with the flags that would make them fit; no checkpoint of a run that never began."""
    folder = tmp_path / "run"
    for name, changes, parts in (
        ("best.pth", ["--decoder-width", 32, "--refiner-blocks", 1], ["--decoder-width 16 --refiner-blocks 2"]),
        ("best.pth", ["--coarse-stride", 4], ["--coarse-stride 2"]),
        ("teacher.pth", [], ["teacher.pth: holds a teacher", "best.pth"]),
        ("log.csv", [], ["log.csv: damaged or not a checkpoint"]),
        ("none.pth", [], ["none.pth: no such checkpoint", "--init-from"]),
    ):
        ended = run(train.main, *options(pictures, folder, "--init-from", source / name, *changes))
        line = ended.err.splitlines()[-1]
        assert ended.status == 2 and line.startswith("error: ") and all(part in line for part in parts), ended.err
        assert "Traceback" not in ended.err and not (folder / "last.pth").exists()


def test_stochastic_depth_may_differ(monkeypatch, tmp_path, pictures, source):
    more = [*NO_TEACHER, "--init-from", source / "best.pth", "--drop-path-rate", 0.3, "--epochs", 1]
    train_here(monkeypatch, pictures, tmp_path / "run", *more)


def test_a_refiner_is_added_and_changes_nothing_at_first(monkeypatch, tmp_path, pictures, plain, capsys):
    with stopped_at(train.Trainer, "train_epoch"):
        more = [*NO_TEACHER, "--init-from", plain / "best.pth", "--error-threshold", 0]
        train_here(monkeypatch, pictures, tmp_path / "run", *more)
    assert f"{plain / 'best.pth'} has no refiner" in capsys.readouterr().out
    with_refiner, without = load_model(tmp_path / "run" / "last.pth"), load_model(plain / "best.pth")
    assert any(name.startswith("refiner.") for name, _ in with_refiner.network.named_parameters())
    rgb = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    coarse, refined = (predict(each, rgb).refined_logits for each in (without, with_refiner))
    torch.testing.assert_close(coarse, refined, rtol=0, atol=1e-5)


def test_a_refiner_is_left_out(monkeypatch, tmp_path, pictures, source, capsys):
    with stopped_at(train.Trainer, "train_epoch"):
        train_here(
            monkeypatch, pictures, tmp_path / "run", *NO_TEACHER, "--no-refiner", "--init-from", source / "best.pth"
        )
    assert f"the refiner of {source / 'best.pth'} is left out" in capsys.readouterr().out
    weights, wanted = (load_checkpoint(path)["model"] for path in (tmp_path / "run" / "last.pth", source / "best.pth"))
    assert same(dict(weights), {name: each for name, each in wanted.items() if not name.startswith("refiner.")})


@pytest.mark.usefixtures("no_download")
def test_a_resume_does_without_the_weights_it_began_with(monkeypatch, tmp_path, pictures, source):
    shutil.copy(source / "best.pth", tmp_path / "weights.pth")
    more = [*NO_TEACHER, "--init-from", tmp_path / "weights.pth", "--save-every", 1]
    train_here(monkeypatch, pictures, tmp_path / "straight", *more)
    with stopped_at(Learner, "make_step", 3):
        train_here(monkeypatch, pictures, tmp_path / "run", *more)
    (tmp_path / "weights.pth").unlink()
    train_here(monkeypatch, pictures, tmp_path / "run", *more, "--resume")
    assert_same_runs(tmp_path / "straight", tmp_path / "run", taught=False)


# ------------------------------------------------------------------------------------------------- --freeze


def part_of(name: str) -> str:
    """What --freeze calls the part of the network that holds this weight; "gain" is trained by all."""
    for part, beginning in (("encoder", "student.encoder."), ("gain", "student.error_head."), ("refiner", "refiner.")):
        if name.startswith(beginning):
            return part
    return "decoder"


@pytest.mark.parametrize(
    ("part", "frozen"), [("encoder", {"encoder"}), ("coarse", {"encoder", "decoder"}), ("refiner", {"refiner"})]
)
def test_what_is_frozen_stays_as_it_is(monkeypatch, tmp_path, pictures, source, part, frozen):
    """Bit by bit, in the average too; what is not frozen learns; interrupted, it goes on in the same way."""
    more = [*NO_TEACHER, "--init-from", source / "best.pth", "--freeze", part, "--ema-decay", 0.5]
    more += ["--drop-path-rate", 0.3, "--weight-decay", 0.1, "--save-every", 1]
    train_here(monkeypatch, pictures, tmp_path / "straight", *more)
    before, after = load_checkpoint(source / "best.pth"), load_checkpoint(tmp_path / "straight" / "last.pth")
    trained = {name.removeprefix("network."): each for name, each in after["training"]["module"].items()}
    for name, weight in before["model"].items():
        for now in (trained[name], after["model"][name]):
            if part_of(name) in frozen:
                assert torch.equal(now, weight), name
            elif "relative_position_bias" not in name:  # at 64 px, some tokens attend to nothing but themselves
                assert not torch.equal(now, weight), name
    with stopped_at(Learner, "make_step", 4):
        train_here(monkeypatch, pictures, tmp_path / "run", *more)
    train_here(monkeypatch, pictures, tmp_path / "run", *more, "--resume")
    assert_same_runs(tmp_path / "straight", tmp_path / "run", taught=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--freeze", "refiner", "--no-refiner", "--init-from", "x.pth"], "--freeze refiner has no effect.*--refiner"),
        (["--freeze", "coarse", "--no-refiner", "--init-from", "x.pth"], "--freeze coarse leaves nothing to train"),
        (["--freeze", "coarse", "--teacher", "none"], "--freeze coarse keeps.*--init-from"),
        (["--freeze", "refiner"], "--freeze refiner keeps.*--init-from"),
        (["--freeze", "coarse", "--init-from", "x.pth"], "--freeze coarse.*--teacher none"),
        (["--freeze", "encoder"], "--freeze encoder.*--init-from"),
        (["--freeze", "decoder"], "--freeze"),
        (["--init-from", "x.pth", "--backbone-weights", "y.pth", "--pretrained"], "--init-from.*--backbone-weights"),
        (["--layer-decay", "0"], "--layer-decay 0.*above 0, at most 1"),
        (["--ema-decay", "1"], "--ema-decay 1.*from 0 to below 1"),
        (["--patience", "0"], "--patience 0.*at least 1"),
        (["--keep-epochs", "-1"], "--keep-epochs -1.*0 or more"),
        (["--max-dropped-steps", "0"], "--max-dropped-steps 0.*at least 1"),
        (["--resume", "--auto-resume"], "--resume and --auto-resume"),
    ],
)
def test_senseless_wishes_are_refused(refused, arguments, message):
    line = refused(train.main, "demo", "--run-dir", "run", *arguments)
    assert re.search(message, line), line


# ----------------------------------------------------------------------------------------- how long, how often


def test_nothing_better_for_long_enough_ends_the_run(monkeypatch, tmp_path, pictures, capsys):
    """Neither worse nor equal is better. Interrupted, it ends at the same point, after which nothing is left to do."""
    validate, sads = train.validate, {}

    def scored(*arguments: Any, **options: Any) -> validation.Share:
        found = validate(*arguments, **options)
        told = sads[current[0]]
        told.append((5.0, 4.0, 6.0, 4.0)[len(told)])
        values = [{**each.values, "SAD": told[-1]} for each in found.scores]
        found.scores[:] = [each._replace(values=new) for each, new in zip(found.scores, values, strict=True)]
        return found

    monkeypatch.setattr(train, "validate", scored)
    more = [*NO_TEACHER, "--epochs", 9, "--patience", 2, "--batch-size", 8]  # one step an epoch
    straight, folder = tmp_path / "straight", tmp_path / "run"
    sads |= {straight: [], folder: []}
    current = [straight]
    train_here(monkeypatch, pictures, straight, *more)
    current[0] = folder
    assert sads[straight] == [5.0, 4.0, 6.0, 4.0]
    assert "stopped after epoch 4: 2 validations without a new best" in capsys.readouterr().out
    assert load_checkpoint(straight / "best.pth")["epoch"] == 2
    with stopped_at(Learner, "make_step", 4):
        train_here(monkeypatch, pictures, folder, *more)
    train_here(monkeypatch, pictures, folder, *more, "--resume")
    assert_same_runs(straight, folder, taught=False)
    capsys.readouterr()
    before = touched(folder)
    train_here(monkeypatch, pictures, folder, *more, "--resume")
    assert "all is done" in capsys.readouterr().out and len(sads[folder]) == 4
    assert touched(folder) == before


def test_the_newest_epochs_are_kept_whole(monkeypatch, tmp_path, pictures):
    """One of them, as the last checkpoint of another folder, leads to the same end."""
    more = [*NO_TEACHER, "--epochs", 4, "--keep-epochs", 2]
    folder, other = tmp_path / "run", tmp_path / "other"
    with stopped_at(Learner, "make_step", 3):
        train_here(monkeypatch, pictures, folder, *more)
    assert [path.name for path in folder.glob("epoch_*")] == ["epoch_001.pth"]
    foreign = [folder / "epoch_notes.pth", folder / "epoch_000.txt"]
    for path in foreign:
        path.write_text("mine")
    train_here(monkeypatch, pictures, folder, *more, "--resume")
    kept = {path.name for path in folder.glob("epoch_*")} - {path.name for path in foreign}
    assert kept == {"epoch_003.pth", "epoch_004.pth"} and all(path.exists() for path in foreign)
    for epoch in (3, 4):
        state = load_checkpoint(folder / f"epoch_{epoch:03d}.pth")
        assert state["position"]["epoch"] == epoch and state["training"]["step"] == 2 * epoch
    other.mkdir()
    shutil.copy(folder / "epoch_003.pth", other / "last.pth")
    train_here(monkeypatch, pictures, other, *more, "--resume")
    for key in ("model", "training"):
        states = [load_checkpoint(each / "last.pth")[key] for each in (folder, other)]
        assert same(*({k: v for k, v in each.items() if k not in {"terms", "norms"}} for each in states))


@pytest.mark.parametrize(("given", "interval"), [("500", (500, inf)), ("15min", (inf, 900.0)), ("1", (1, inf))])
def test_how_often_it_is_saved(given, interval):
    assert RunConfig(save_every=given).save_interval() == interval


@pytest.mark.parametrize("given", ["0", "x", "1h", "0min", "-5", "1.5min", "15 min", ""])
def test_what_is_no_interval_is_refused(refused, given):
    line = refused(train.main, "demo", "--run-dir", "run", f"--save-every={given}")
    assert "--save-every" in line and "15min" in line


# -------------------------------------------------------------------------------------------------- options


def test_activations_that_are_computed_again_are_the_same(monkeypatch, tmp_path, pictures, source):
    """The same run, bit by bit, with stochastic depth too; each block is passed once more for a training image."""
    forward, calls = SwinTransformerBlock.forward, []

    def counted(self: Any, *arguments: Any) -> torch.Tensor:
        calls.append(self.training)
        return forward(self, *arguments)

    monkeypatch.setattr(SwinTransformerBlock, "forward", counted)
    more, passes = ["--drop-path-rate", 0.3, "--epochs", 1], []
    for name, option in (("usual", []), ("again", ["--checkpoint-activations"])):
        calls.clear()
        train_here(monkeypatch, pictures, tmp_path / name, *more, *option)
        passes.append((calls.count(True), calls.count(False)))
    assert_same_runs(tmp_path / "usual", tmp_path / "again")
    assert passes[1] == (2 * passes[0][0], passes[0][1]) and passes[0][0] > 0


def test_tensorboard_shows_the_rows(monkeypatch, tmp_path, pictures):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train_here(monkeypatch, pictures, tmp_path / "run", *NO_TEACHER, "--tensorboard")
    shown = EventAccumulator(str(folder / "events")).Reload()
    for name, group in (("log.csv", "train"), ("validation.csv", "validation")):
        rows = pd.read_csv(folder / name)
        assert len(rows) == 2
        for column in rows.columns.drop("step"):
            events = shown.Scalars(f"{group}/{column}")
            assert [event.step for event in events] == rows["step"].tolist()
            assert [event.value for event in events] == pytest.approx(rows[column].tolist(), rel=1e-5)


def test_layers_learn_the_slower_the_nearer_they_are_to_the_input(monkeypatch, tmp_path, pictures, source):
    """Without decay of weights, Adam's first step is the learning rate, in the direction of the gradient's sign."""
    more = [*NO_TEACHER, "--init-from", source / "best.pth", "--epochs", 1, "--batch-size", 8, "--warmup-steps", 0]
    more += ["--layer-decay", 0.5, "--backbone-learning-rate", 1e-3, "--learning-rate", 2e-3, "--weight-decay", 0]
    train_here(monkeypatch, pictures, tmp_path / "run", *more)
    before, after = (load_checkpoint(path)["model"] for path in (source / "best.pth", tmp_path / "run" / "last.pth"))

    def moved(beginning: str) -> float:
        names = [name for name in before if name.startswith(beginning)]
        return max(float((after[name] - before[name]).abs().max()) for name in names)

    matches = [re.match(r"student\.encoder\.layers_\d\.blocks\.\d\.", name) for name in before]
    blocks = sorted({match[0] for match in matches if match})
    for depth, name in enumerate(["student.encoder.patch_embed.", *blocks]):
        assert moved(name) == pytest.approx(1e-3 * 0.5 ** (len(blocks) - depth), rel=0.02), name
    assert moved("student.alpha_head.") == moved("refiner.") == pytest.approx(2e-3, rel=0.02)


# ------------------------------------------------------------------------------------------- what goes wrong


def test_too_little_memory_says_what_helps(monkeypatch, run, tmp_path, pictures):
    make_step = Learner.make_step

    def make(self: Learner, *arguments: Any) -> None:
        if self.step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        make_step(self, *arguments)

    monkeypatch.setattr(Learner, "make_step", make)
    ended = run(train.main, *options(pictures, tmp_path / "run", *NO_TEACHER, "--save-every", 1))
    line = ended.err.splitlines()[-1]
    assert ended.status == 2 and line.startswith("error: out of memory on cpu (peak ") and "Traceback" not in ended.err
    for part in ("GB", "2.00 GiB", "--batch-size 4", "--accumulation-steps 1", "--checkpoint-activations"):
        assert part in line
    assert load_checkpoint(tmp_path / "run" / "last.pth")["training"]["step"] == 1


def test_another_training_is_no_resume(run, source, pictures):
    """F06: each difference by its flag; nothing is touched."""
    before = touched(source)
    for flag, old, new in (
        ("--l1-weight", "1.0", "2.0"), ("--image-size", "64", "128"), ("--decoder-width", "16", "32"),
        ("--dataset", "custom", "DIS5K"), ("--ema-decay", "0.0", "0.9"), ("--layer-decay", "1.0", "0.8"),
        ("--batch-size", "4", "2"), ("--seed", "0", "1"),
    ):  # fmt: skip
        ended = run(train.main, *options(pictures, source, "--resume", flag, new))
        assert ended.status == 2 and f"{flag} {old} -> {new}" in ended.err, ended.err
        assert ended.err.count("\n") == 1 and ended.err.count("->") == 1
    ended = run(train.main, *options(pictures, source, "--resume", "--freeze", "encoder", "--init-from", "x.pth"))
    assert "--freeze none -> encoder" in ended.err
    assert touched(source) == before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is printed goes to no file, which the disk might have no room for."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def full_disk_at(owner: object, name: str, call: int, limit_bytes: int) -> Iterator[None]:
    """From the n-th call of a function on, no file grows beyond a limit: writes stop half-way, as on a full disk."""
    original, calls, before = getattr(owner, name), [], resource.getrlimit(resource.RLIMIT_FSIZE)

    def function(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
        return original(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, function)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("moment", "limit_bytes", "file", "step"),
    [
        ((Learner, "make_step", 2), 100_000, "teacher_training.pth", 0),  # of 2 steps of the teacher, 4 of the network
        ((Learner, "make_step", 4), 1_000_000, "last.pth", 1),
        ((Learner, "make_step", 6), 0, "log.csv", 3),
        ((train, "record_validation", 1), 0, "validation.csv", 2),
        ((train, "merge_shares", 2), 1_000_000, "best.pth", 4),
    ],
)
def test_a_full_disk_costs_a_step_and_nothing_else(
    monkeypatch, tmp_path, pictures, source, moment, limit_bytes, file, step
):
    """F02: one line that names the file; the checkpoint before stays; then the straight run's end."""
    folder = tmp_path / "run"
    message = rf"{file}: cannot be written.*free space"
    with quiet(), full_disk_at(*moment, limit_bytes), pytest.raises(UserError, match=message):
        train_here(monkeypatch, pictures, folder, "--save-every", 1)
    assert load_checkpoint(folder / "last.pth")["training"]["step"] == step
    assert not list(folder.rglob(".*.tmp"))
    train_here(monkeypatch, pictures, folder, "--save-every", 1, "--resume")
    assert_same_runs(source, folder)


def test_a_second_run_in_a_folder_leaves_the_first_alone(monkeypatch, tmp_path, pictures, source):
    """F07: it is refused whatever it was told, without a trace; the first comes to its usual end."""
    folder = tmp_path / "run"
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\nimport train\nfrom utils.errors import run_script\n"
        "make_step = train.Learner.make_step\n"
        "def make(*arguments):\n"
        "    print('step', flush=True)\n"
        "    if sys.stdin.readline() == '':\n"
        "        raise SystemExit('the test has ended')\n"
        "    make_step(*arguments)\n"
        "train.Learner.make_step = make\n"
        "run_script(train.main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, slow, *options(pictures, folder)], cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while process.stdout.readline() not in ("step\n", ""):
            pass
        for option in (["--auto-resume"], ["--resume"], []):
            with pytest.raises(UserError, match=f"{folder} is in use by process {process.pid} on "):
                train_here(monkeypatch, pictures, folder, *option)
        _, errors = process.communicate("\n" * 6, timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert_same_runs(source, folder)
