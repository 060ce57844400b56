"""Training by several processes: the model of one, written and told by one, stopped and resumed by any number.

The processes of CASES are forked by this file as a program, which imports PyTorch once; the others torchrun starts.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from test_distributed import exit_at_once, free_ports, surroundings  # noqa: E402
from training import TIMES, same, tiny  # noqa: E402

import train  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.learner import Learner  # noqa: E402
from utils.synthetic import write_embedded  # noqa: E402

pytestmark = pytest.mark.usefixtures("elsewhere")
WAIT_SEC = 240
# Seven pictures in steps of 4 and 3 images, so that two processes have 2 and 2, then 2 and 1, each in batches of one;
# nothing is drawn inside the network, which each process would draw for itself.
OPTIONS = ["--dataset", "custom", "--epochs", 2, "--teacher-epochs", 2, "--batch-size", 1, "--accumulation-steps", 4]
OPTIONS += ["--ema-decay", 0.5, "--log-every", 3, "--teacher-learning-rate", 1e-2, "--teacher-warmup-steps", 1]
FEW = ["--batch-size", 1, "--accumulation-steps", 3]  # steps of 3, 3 and 1 images: two of three get a stand-in


def arguments(pictures: Path, folder: Path, *more: object) -> list[str]:
    return tiny(*OPTIONS, "--data-root", pictures, "--run-dir", folder, *more)


# ------------------------------------------------------------------------------- what forked processes do


def writes_nothing(rank: int) -> None:
    """All but the first process fail where they make, change or remove a file of the run."""

    def watch(event: str, details: tuple) -> None:
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate")
        writes |= event == "open" and bool((details[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and rank and any("run" in Path(os.fsdecode(each)).parts for each in details if isinstance(each, str)):
            raise AssertionError(f"process {rank}: {event} {details}")

    sys.addaudithook(watch)


def killed_at_step_6(rank: int) -> None:
    """As if the system ended all processes: the teacher has made its 4 steps, the network its first."""
    make_step, calls = Learner.make_step, []

    def make(self: Learner, *options: Any) -> None:
        calls.append(1)
        if len(calls) == 6:
            os._exit(9)
        make_step(self, *options)

    Learner.make_step = make


def poisoned(name: str) -> Callable[..., Callable]:
    """`train.matting_objective` with a loss that is not a number for one picture."""
    matting_objective = train.matting_objective

    def make(*options: Any) -> Callable:
        objective = matting_objective(*options)

        def bad(trained: Any, batch: Any) -> dict[str, torch.Tensor]:
            terms = objective(trained, batch)
            return {key: term * float("nan") for key, term in terms.items()} if name in batch.name else terms

        return bad

    return make


def bad_picture(pictures: Path) -> str:
    return sorted(path.stem for path in (pictures / "train" / "im").iterdir())[2]


class Case(NamedTuple):
    """How many processes, what they are told, and what is done to them before; one after the other in the folder."""

    size: int
    options: list
    prepare: Callable[[int], None] = writes_nothing


def cases(pictures: Path) -> dict[str, list[Case]]:
    def poison(_: int) -> None:
        train.matting_objective = poisoned(bad_picture(pictures))

    return {
        "whole": [Case(2, [])],
        "killed": [Case(2, ["--save-every", 1], killed_at_step_6), Case(2, ["--resume"])],
        "stand-ins": [Case(3, FEW)],
        "too many": [Case(3, ["--batch-size", 1, "--accumulation-steps", 2])],
        "bad picture": [Case(2, ["--teacher", "none"], poison)],
        "not a teacher": [Case(2, ["--teacher-checkpoint", pictures / "weights.pth"])],
        "from weights": [
            Case(2, ["--init-from", pictures / "weights.pth", "--teacher", "none", "--epochs", 1, "--no-refiner"])
        ],
    }


def fork_all(folder: Path, pictures: Path) -> None:
    """Runs all cases at once, each in a folder of its own; those of one folder one after the other."""
    left = {name: list(enumerate(turns)) for name, turns in cases(pictures).items()}
    running: dict[int, tuple[str, str]] = {}
    until = time.monotonic() + WAIT_SEC
    while (running or any(left.values())) and time.monotonic() < until:
        for name, turns in left.items():
            if turns and name not in [each for each, _ in running.values()]:
                (folder / name).mkdir(exist_ok=True)
                running |= fork(folder / name, pictures, *turns.pop(0))
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            name, label = running.pop(pid)
            (folder / name / f"status{label}").write_text(str(os.waitstatus_to_exitcode(status)))
            for other in [other for other, (case, _) in running.items() if case == name and status]:
                os.kill(other, signal.SIGTERM)  # as torchrun does
        else:
            time.sleep(0.02)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def fork(folder: Path, pictures: Path, turn: int, case: Case) -> dict[int, tuple[str, str]]:
    """Starts the processes of a case; their numbers, with folder and name."""
    (port,) = free_ports(1)
    started = {}
    for rank in range(case.size):
        label = f"{turn}.{rank}"
        pid = os.fork()
        if not pid:
            os.chdir(folder)
            os.environ.update(CUDA_VISIBLE_DEVICES="", **surroundings(rank, case.size, port))
            for stream, number in (("out", 1), ("err", 2)):
                os.dup2(os.open(f"{stream}{label}", os.O_CREAT | os.O_WRONLY), number)
            sys.argv = ["train.py", *arguments(pictures, Path("run"), *case.options)]
            case.prepare(rank)
            exit_at_once(train.main)
        started[pid] = folder.name, label
    return started


# ------------------------------------------------------------------------------------------------ the tests


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Seven training and two validation pairs, below 100 px."""
    root = tmp_path_factory.mktemp("pictures")
    write_embedded(root, train=7, val=2, long_side=(72, 96), workers=1)
    return root


def run_here(folder: Path, pictures: Path, *more: object, patches: dict[str, Any] | None = None) -> Path:
    """train.py as one process, this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *arguments(pictures, folder, *more)])
        for name, value in (patches or {}).items():
            patch.setattr(train, name, value)
        train.main()
    return folder


@pytest.fixture(scope="module")
def begun(pictures, tmp_path_factory) -> Path:
    """The run folder of a run that has made no step, of the teacher's either; its weights are a file of the data's."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(train.Trainer, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run_here(folder, pictures, "--teacher-epochs", 0)
    (pictures / "weights.pth").write_bytes((folder / "last.pth").read_bytes())
    return folder


@pytest.fixture(scope="module")
def single(pictures, tmp_path_factory) -> Path:
    """The run folder of one process."""
    folder = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_here(folder / "run", pictures)


@pytest.fixture(scope="module")
def several(pictures, begun, tmp_path_factory) -> Path:
    """The folder with the folders of CASES, and what their processes printed."""
    folder = tmp_path_factory.mktemp("several")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, folder, pictures], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def ends(folder: Path, turn: int = 0) -> list[int]:
    """The exit statuses, by rank, of those that ended."""
    return [int(each.read_text()) for each in sorted(folder.glob(f"status{turn}.*"))]


def assert_refused(folder: Path, size: int) -> None:
    """The first process tells, the others end quietly, or are ended while they do."""
    statuses = ends(folder)
    assert len(statuses) == size and statuses[0] == 2 and {*statuses[1:]} <= {2, 128 + signal.SIGTERM, -signal.SIGTERM}


def said(folder: Path, stream: str, rank: int, turn: int = 0) -> str:
    """What a process printed, but for progress bars."""
    lines = (folder / f"{stream}{turn}.{rank}").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.strip() and "%|" not in line)


def load(folder: Path, name: str = "last.pth") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in weights.values()])


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """Distance of two sets of weights, as a share of the way they came."""
    return float((flat(first) - flat(second)).norm() / (flat(second) - flat(start)).norm())


def assert_close_runs(folder: Path, single: Path, begun: Path) -> None:
    """Weights, averages, teacher and rows of several processes and of one: the same but for the order of sums."""
    several, one, start = (load(each) for each in (folder, single, begun))
    assert several["position"]["epoch"] == one["position"]["epoch"] > 0
    assert several["training"]["step"] == one["training"]["step"]
    assert apart(several["model"], one["model"], start["model"]) < 1e-3
    if "module" in start["training"] and several["training"]["module"].keys() == start["training"]["module"].keys():
        assert apart(*(each["training"]["module"] for each in (several, one, start))) < 1e-3
        assert apart(*(load(each, "teacher.pth")["model"] for each in (folder, single, begun))) < 1e-3
    for name in ("log.csv", "validation.csv", "teacher.csv", "dropped.csv"):
        assert (folder / name).exists() == (single / name).exists(), name
        if (single / name).exists():
            rows = [pd.read_csv(each / name).drop(columns=TIMES, errors="ignore") for each in (folder, single)]
            pd.testing.assert_frame_equal(*rows, rtol=1e-3, atol=1e-4)


def test_two_processes_train_the_model_of_one(several, single, begun):
    """F15: seven pictures do not divide by two processes, nor by a step."""
    assert ends(several / "whole") == [0, 0], said(several / "whole", "err", 0)
    assert_close_runs(several / "whole" / "run", single, begun)
    assert pd.read_csv(single / "validation.csv")["epoch"].tolist() == [1, 2]
    best = [load(each, "best.pth") for each in (several / "whole" / "run", single)]
    assert best[0]["epoch"] == best[1]["epoch"] and best[0]["scores"] == pytest.approx(best[1]["scores"], rel=1e-3)


def test_one_process_writes_and_prints(several):
    """That the others write nothing, these have made sure of themselves."""
    out = said(several / "whole", "out", 0)
    assert said(several / "whole", "out", 1) == said(several / "whole", "err", 1) == ""
    lines = out.splitlines()
    told = ("preset demo", "effective batch 1 x 4 = 4; 2 processes share it, 1 at a time each", "epoch 2: validation")
    assert all(sum(line.startswith(beginning) for line in lines) == 1 for beginning in told), out
    assert len(set(lines)) == len(lines)
    from_weights = several / "from weights"
    assert said(from_weights, "out", 0).count("note: the refiner of") == 1
    assert ends(from_weights) == [0, 0], said(from_weights, "err", 1)
    assert said(from_weights, "out", 1) == said(from_weights, "err", 1) == ""


def test_two_processes_resume_bit_by_bit(several):
    """Rows but for the last digits: what is saved of a mean is added up over the processes earlier."""
    whole, killed = several / "whole" / "run", several / "killed" / "run"
    assert ends(several / "killed", 0) == [9, 9] and ends(several / "killed", 1) == [0, 0]
    for name, keys in {"last.pth": ("model", "position"), "best.pth": ("model", "epoch", "scores")}.items():
        assert all(same(load(killed, name)[key], load(whole, name)[key]) for key in keys), name
    for key in ("module", "optimizer", "step"):
        assert same(load(killed)["training"][key], load(whole)["training"][key]), key
    rows = [pd.read_csv(each / "log.csv").drop(columns=TIMES) for each in (killed, whole)]
    pd.testing.assert_frame_equal(*rows, rtol=1e-5)


def test_processes_without_an_image_take_part(several, pictures, begun, tmp_path):
    """Three processes for a last step of one image, and for two validation images."""
    assert ends(several / "stand-ins") == [0, 0, 0], said(several / "stand-ins", "err", 2)
    assert_close_runs(several / "stand-ins" / "run", run_here(tmp_path / "run", pictures, *FEW), begun)


def test_more_processes_than_images_a_step_are_refused(several):
    folder = several / "too many"
    assert_refused(folder, 3)
    errors = [said(folder, "err", rank) for rank in range(3)]
    assert "fewer images than the 3 processes" in errors[0] and "--accumulation-steps" in errors[0]
    assert errors[0].count("\n") == 1 and errors[1:] == ["", ""]
    assert not (folder / "run").exists()


def test_a_wrong_teacher_is_told_once(several):
    folder = several / "not a teacher"
    assert_refused(folder, 2)
    errors = [said(folder, "err", rank) for rank in range(2)]
    assert "not a teacher" in errors[0] and errors[0].count("\n") == 1 and errors[1] == ""


def test_a_picture_that_is_not_finite_drops_the_step_in_all_processes(several, pictures, begun, tmp_path):
    """F17: one of the two meets it, once an epoch; it alone is named, and the weights are those of one process."""
    folder, name = several / "bad picture", bad_picture(pictures)
    assert ends(folder) == [0, 0], said(folder, "err", 1)
    patches = {"matting_objective": poisoned(name)}
    one = run_here(tmp_path / "run", pictures, "--teacher", "none", patches=patches)
    dropped = pd.read_csv(folder / "run" / "dropped.csv")
    assert dropped["files"].tolist() == [name, name] and len(set(dropped["step"])) == 2
    assert said(folder, "out", 0).count(f"was dropped, it is not finite: {name}") == 2
    assert_close_runs(folder / "run", one, begun)


@pytest.fixture
def torchrun(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """`torchrun(script, ...)` starts two processes, as a user does; none outlives the test."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = []

    def torchrun(*command: object) -> subprocess.Popen:
        argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen([*map(str, argv)], cwd=tmp_path, env=environment, **pipes))
        return started[-1]

    yield torchrun
    for process in started:
        left = [number for _, number in workers(process.pid)] if process.poll() is None else []
        process.kill()
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def workers(agent: int) -> Iterator[tuple[int, int]]:
    """Rank and number of the processes that torchrun has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            surrounding = (stat.parent / "environ").read_bytes().split(b"\0") if parent == agent else []
        except OSError:  # it has ended meanwhile
            continue
        yield from ((int(each[5:]), int(stat.parent.name)) for each in surrounding if each.startswith(b"RANK="))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_signal_to_one_process_stops_both_and_one_process_goes_on(torchrun, pictures, single, begun, tmp_path):
    """F14, with checkpoints an hour apart: what the signal saved is what is continued."""
    folder = tmp_path / "run"
    # As long as it takes: no step is lost, and none too many is made.
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import os, sys, time\nsys.path.insert(0, {str(ROOT)!r})\nimport train\nfrom utils.errors import run_script\n"
        "make_step, save = train.Learner.make_step, train.RunFolder.save\n"
        "train.Learner.make_step = lambda *arguments: (time.sleep(0.5), make_step(*arguments))[1]\n"
        "train.RunFolder.save = lambda *arguments: (time.sleep(1), save(*arguments), print('last.pth!'))[1]\n"
        "run_script(train.main)\n"
    )
    process = torchrun(slow, *arguments(pictures, folder, "--save-every", "60min"))
    output = ""
    for line in process.stdout:
        output += line
        if "teacher epoch 2" in line:
            break
    ranks = dict(workers(process.pid))
    assert sorted(ranks) == [0, 1], output
    begin = time.monotonic()
    os.kill(ranks[1], signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - begin < 20
    assert rest.count("last.pth!") == 1, rest
    assert rest.count("terminated\n") == 2 and "epoch 1:" not in rest, rest
    assert not list(folder.rglob(".*.tmp"))
    run_here(folder, pictures, "--resume")
    assert_close_runs(folder, single, begun)
    with pytest.raises(UserError, match="holds a run"):
        run_here(folder, pictures)


def test_a_fault_of_one_process_ends_all(torchrun, pictures, tmp_path):
    """F14: at once, with its traceback."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport train\nfrom utils.errors import run_script\n"
        "make_step = train.Learner.make_step\n"
        "def broken(self, *arguments):\n"
        "    if os.environ['RANK'] == '1' and self.step == 1:\n"
        "        raise ZeroDivisionError('a fault of ours')\n"
        "    make_step(self, *arguments)\n"
        "train.Learner.make_step = broken\n"
        "run_script(train.main)\n"
    )
    process = torchrun(broken, *arguments(pictures, tmp_path / "run", "--teacher", "none"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "ZeroDivisionError: a fault of ours" in output, output
    load(tmp_path / "run")


if __name__ == "__main__":
    fork_all(Path(sys.argv[1]), Path(sys.argv[2]))
