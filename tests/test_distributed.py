"""utils.distributed, eval.py, predict.py by several processes: the results of one, one message, and no endless wait.

The processes are real ones, with gloo. Those of CASES are forked by this file as a program, which imports PyTorch once.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import eval as eval_script  # noqa: E402
import predict as predict_script  # noqa: E402
from utils.distributed import Processes, processes  # noqa: E402
from utils.encoding import write_image  # noqa: E402
from utils.errors import UserError, run_script  # noqa: E402

LETTERS = list("abcdefg")  # which two or three processes share unevenly
WAIT_SEC = 90


def surroundings(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in told.items()}, "MASTER_ADDR": "127.0.0.1"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


# ------------------------------------------------------------------------------- what forked processes do


def exchange(world: Processes) -> None:
    import torch

    called = []
    mine = [letter.upper() for letter in world.share(LETTERS)]
    summed = torch.tensor([1.0, world.rank])
    seen = {
        "rank": world.rank,
        "beside": world.beside,
        "device": str(world.device),
        "first": world.first(lambda: called.append(world.rank) or {"by": world.rank}),
        "nothing": world.first(lambda: None),
        "called": called,
        "shares": world.gather(mine),
        "order": world.interleave(world.gather(mine)),
        "fewer": world.interleave(world.gather(world.share(LETTERS[:1]))),
        "largest": world.largest(world.rank, -world.rank, 7),
        "sum": world.add_up(summed).tolist(),
        "same": summed.tolist(),
        "each": world.each(lambda: 10 * world.rank),
    }
    world.print(json.dumps({"printed by": world.rank}))

    def in_turn() -> bool:
        """Whether the first one's file is there when the others begin."""
        if world.is_first:
            time.sleep(0.3)
            Path("ready").touch()
        return Path("ready").exists()

    seen["ready"] = world.each(in_turn, first_ahead=True)
    Path(f"seen{world.rank}").write_text(json.dumps(seen))
    if world.is_first:
        time.sleep(0.3)
        Path("late").touch()


def wrong_use(_: Processes) -> None:
    raise UserError("x.png: damaged; replace it")


def slowly(work: Callable[[Processes], None]) -> Callable[[Processes], None]:
    """The error takes its time on the way out; a process that ends before it would have it killed."""

    def slow(world: Processes) -> None:
        try:
            work(world)
        except UserError:
            time.sleep(0.5)
            raise

    return slow


def first_fails(world: Processes) -> None:
    world.first(lambda: wrong_use(world))


def later_ones_fail(world: Processes) -> None:
    world.each(lambda: None if world.is_first else wrong_use(world))


def first_fails_ahead(world: Processes) -> None:
    world.each(lambda: wrong_use(world) if world.is_first else Path("began").touch(), first_ahead=True)


def all_fail(world: Processes) -> None:
    world.fail("x.png: damaged; replace it")


def fault(world: Processes) -> None:
    if world.rank == 1:
        raise ZeroDivisionError("a fault of ours")
    world.gather(None)


def fault_in_first(world: Processes) -> None:
    world.first(lambda: 1 / 0)


CASES: dict[str, tuple[int, str, Callable[[Processes], None]]] = {
    "exchange2": (2, "cpu", exchange),
    "exchange3": (3, "auto", exchange),
    "first_fails": (3, "cpu", slowly(first_fails)),
    "later_ones_fail": (3, "cpu", slowly(later_ones_fail)),
    "first_fails_ahead": (2, "cpu", slowly(first_fails_ahead)),
    "all_fail": (2, "cpu", slowly(all_fail)),
    "fault": (3, "cpu", fault),
    "fault_in_first": (2, "cpu", fault_in_first),
    "one_gpu": (2, "cuda:1", exchange),
    "unknown_device": (2, "cpuu", exchange),
}


def exit_at_once(main: Callable[[], int]) -> NoReturn:
    """Runs a script as `run_script` does, without the second in which Python takes its modules down."""
    try:
        run_script(main)
    except SystemExit as stop:
        status = stop.code
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


def fork_all(folder: Path) -> None:
    """Runs all cases at once, each in a folder of its own; writes the exit statuses, None for one that hangs.

    As torchrun does, it ends the processes of a case with SIGTERM as soon as one has ended with an error.
    """
    import torch.distributed  # noqa: F401  what takes seconds: once, before the forks

    import utils.inference  # noqa: F401

    started = {}
    for (name, (size, device, work)), port in zip(CASES.items(), free_ports(len(CASES)), strict=True):
        (folder / name).mkdir()
        for rank in range(size):
            pid = os.fork()
            if not pid:
                os.chdir(folder / name)
                os.environ.update(CUDA_VISIBLE_DEVICES="", **surroundings(rank, size, port))
                for stream, number in (("out", 1), ("err", 2)):
                    os.dup2(os.open(f"{stream}{rank}", os.O_CREAT | os.O_WRONLY), number)

                def main(device: str = device, work: Callable = work) -> int:
                    with processes(os.environ, device) as world:
                        work(world)
                    return 0 if Path("late").exists() or work is not exchange else 3

                exit_at_once(main)
            started[pid] = name, rank
    statuses: dict[str, list[int | None]] = {name: [None] * size for name, (size, *_) in CASES.items()}
    until = time.monotonic() + WAIT_SEC
    while started and time.monotonic() < until:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            name, rank = started.pop(pid)
            statuses[name][rank] = os.waitstatus_to_exitcode(status)
            for other in [other for other, (case, _) in started.items() if case == name and status]:
                os.kill(other, signal.SIGTERM)
        else:
            time.sleep(0.02)
    for pid in started:
        os.kill(pid, signal.SIGKILL)
    (folder / "statuses.json").write_text(json.dumps(statuses))


class Ended(NamedTuple):
    """How the processes of a case ended: by rank, their status (None: it hung), stdout and stderr."""

    folder: Path
    statuses: list[int | None]
    out: list[str]
    err: list[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    folder = tmp_path_factory.mktemp("cases")
    done = subprocess.run(
        [sys.executable, __file__, folder], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    statuses = json.loads((folder / "statuses.json").read_text())

    def ended(name: str) -> Ended:
        ranks = range(len(statuses[name]))
        out, err = ([(folder / name / f"{stream}{rank}").read_text() for rank in ranks] for stream in ("out", "err"))
        return Ended(folder / name, statuses[name], out, err)

    return ended


# ---------------------------------------------------------------------------------------------- exchanges


@pytest.mark.parametrize("size", [2, 3])
def test_exchanges(ended: Callable[[str], Ended], size: int) -> None:
    done = ended(f"exchange{size}")
    assert done.statuses == [0] * size, done.err  # 3: one went on before the last one was done
    assert done.out == ['{"printed by": 0}\n', *[""] * (size - 1)]
    ranks = range(size)
    for rank in ranks:
        assert json.loads((done.folder / f"seen{rank}").read_text()) == {
            "rank": rank,
            "beside": size,
            "device": "cpu",
            "first": {"by": 0},
            "nothing": None,
            "called": [0] if rank == 0 else [],
            "shares": [list("ABCDEFG"[each::size]) for each in ranks],
            "order": list("ABCDEFG"),
            "fewer": ["a"],
            "largest": [size - 1, 0, 7],
            "sum": [size, sum(ranks)],
            "same": [size, sum(ranks)],
            "each": 10 * rank,
            "ready": True,
        }


def test_one_process_needs_nobody() -> None:
    with processes({}, "cpu") as world:
        assert (world.rank, world.size, str(world.device), world.beside, world.is_first) == (0, 1, "cpu", 1, True)
        assert world.share(LETTERS) == LETTERS == world.interleave(world.gather(LETTERS))
        assert world.first(lambda: 5) == 5 == world.each(lambda: 5, first_ahead=True)
        assert world.largest(3, -1) == (3, -1)
        for fails in (first_fails, wrong_use, all_fail, lambda one: one.each(lambda: wrong_use(one))):
            with pytest.raises(UserError, match=r"x\.png"):
                fails(world)
    with processes({"WORLD_SIZE": "1", "RANK": "0"}, None) as world:
        assert world.size == 1 and world.device is None


def test_processes_that_nobody_numbered() -> None:
    with (
        pytest.raises(
            UserError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set: start the processes with torchrun"
        ),
        processes({"WORLD_SIZE": "2", "RANK": "0"}, "cpu"),
    ):
        pytest.fail("it started")


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "teller"), [("first_fails", 0), ("later_ones_fail", 1), ("first_fails_ahead", 0), ("all_fail", 0)]
)
def test_one_process_tells_what_was_wrong(ended: Callable[[str], Ended], name: str, teller: int) -> None:
    done = ended(name)
    size = len(done.statuses)
    # One that leaves without a word may be ended by torchrun while it does.
    assert done.statuses[teller] == 2 and {*done.statuses} <= {2, 143, -15} and done.out == [""] * size
    assert done.err == ["error: x.png: damaged; replace it\n" if rank == teller else "" for rank in range(size)]
    assert not (done.folder / "began").exists()


@pytest.mark.parametrize(("name", "guilty"), [("fault", 1), ("fault_in_first", 0)])
def test_a_fault_of_one_ends_all_and_only_it_has_a_traceback(
    ended: Callable[[str], Ended], name: str, guilty: int
) -> None:
    done = ended(name)
    for rank, (status, err) in enumerate(zip(done.statuses, done.err, strict=True)):
        if rank == guilty:
            assert status == 1 and "Traceback" in err and "ZeroDivisionError" in err
        elif status != -15:  # it notices, or is told; unless it is ended while it leaves
            assert (status, err) == (143, "terminated\n") or (status == 2 and "another process has ended" in err)
            assert err.count("\n") == 1


def test_a_device_for_several_processes(ended: Callable[[str], Ended]) -> None:
    for name, part in (("one_gpu", "--device cuda:1 is one GPU for 2"), ("unknown_device", "--device cpuu: unknown")):
        done = ended(name)
        assert (
            done.statuses[0] == 2
            and done.statuses[1] in (2, 143, -15)
            and part in done.err[0]
            and done.err[0].count("\n") == 1
            and done.err[1] == ""
        )


# ------------------------------------------------------------------------------------------------- scripts


def start(size: int, script: str, *arguments: Any) -> list[subprocess.Popen]:
    """Processes that share a script's work, as torchrun starts them."""
    (port,) = free_ports(1)
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / script), *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **surroundings(rank, size, port)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each."""
    return [(each.returncode, out, err) for each in started for out, err in [each.communicate(timeout=WAIT_SEC)]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scores(folder: Path) -> dict[str, bytes]:
    """All results; the scores of one image after the other may stand in another order."""
    found = contents(folder)
    found["scores.jsonl"] = b"".join(sorted(found["scores.jsonl"].splitlines(keepends=True)))
    return found


def test_processes_score_as_one_does(
    monkeypatch: pytest.MonkeyPatch, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """Five images; the pictures of the worst and best, and those that another process finds, included."""
    write_pairs(tmp_path / "data" / "test", {name: (40 + 9 * at, 70 - 6 * at) for at, name in enumerate("abcde")})
    arguments = (
        "--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "Custom", "--unknown-region",
        "--examples", 1, "--num-workers",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ((alone, _, err),) = finish(
        start(1, "eval.py", *arguments, 0, "--out", "one")
    )  # a process of its own, as the others
    assert alone == 0, err
    (first, out, err), (second, nothing, no_bar) = finish(start(2, "eval.py", *arguments, 1, "--out", "two"))
    assert first == second == 0, err + no_bar
    assert nothing == "" and no_bar == "" and "1 of 2 processes" in err
    assert "Custom" in out and out.count("written:") == 1
    one, two = contents(Path("one")), contents(Path("two"))
    assert set(one) == set(two) >= {"scores.jsonl", "metrics.json", "per_image.csv", "report.html"}
    assert len([name for name in one if name.startswith("trimaps_")]) == 5
    assert {name for name in one if one[name] != two[name]} <= {"scores.jsonl"}
    names = {json.loads(line).get("scores", {}).get("name") for line in two["scores.jsonl"].splitlines()}
    assert names == {None, *"abcde"}


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_evaluation_is_continued_by_any_number_of_processes(
    run: Callable, make_pair: Callable, tmp_path: Path
) -> None:
    for index in range(24):
        alpha = make_pair(300, 400 + index)[1]
        noise = np.random.default_rng(index).integers(-20, 20, alpha.shape)
        write_image(tmp_path / "truth" / f"{index}.png", alpha)
        write_image(tmp_path / "mattes" / f"{index}.png", np.clip(alpha + noise, 0, 255).astype(np.uint8))
    arguments = (
        "--predictions", tmp_path / "mattes", "--ground-truth", tmp_path / "truth", "--num-workers", 0, "--examples", 1
    )  # fmt: skip
    assert run(eval_script.main, *arguments, "--out", "straight").status == 0

    started = start(2, "eval.py", *arguments, "--out", "R")
    books = Path("R/scores.jsonl"), Path("R/scores.rank1.jsonl")
    until = time.monotonic() + WAIT_SEC
    while min(map(lines, books)) < 3:
        assert time.monotonic() < until and all(each.poll() is None for each in started)
        time.sleep(0.01)
    for each in started:
        each.kill()
    finish(started)
    assert all(3 <= lines(book) < 13 for book in books) and not Path("R/metrics.json").exists()
    shutil.copytree("R", "S")
    shutil.copytree("R", "T")

    assert run(eval_script.main, *arguments, "--out", "R").status == 2  # there are scores to keep
    finished = run(eval_script.main, *arguments, "--out", "R", "--resume")
    kept = sum(map(lines, map(Path, ("S/scores.jsonl", "S/scores.rank1.jsonl")))) - 2  # each says how is scored
    assert finished.status == 0 and f"{kept} of 24 images are scored already" in finished.out

    for status, _, err in finish(start(3, "eval.py", *arguments, "--out", "S", "--resume")):
        assert status == 0, err
    results = ("metrics.json", "per_image.csv", "report.html", "table.txt")
    straight = contents(Path("straight"))
    for folder in ("R", "S"):
        found = contents(Path(folder))
        assert set(found) == set(straight) and all(found[name] == straight[name] for name in results)

    other = run(eval_script.main, *arguments, "--out", "T", "--resume", "--metrics", "SAD")
    assert other.status == 2 and "other settings" in other.err
    os.remove("T/scores.jsonl")  # of the second process' scores that is as true
    other = run(eval_script.main, *arguments, "--out", "T", "--resume", "--metrics", "SAD")
    assert other.status == 2 and "scores.rank1.jsonl was made with other settings" in other.err
    assert run(eval_script.main, *arguments, "--out", "T").status == 2
    assert run(eval_script.main, *arguments, "--out", "T", "--overwrite").status == 0
    assert contents(Path("T"))["per_image.csv"] == straight["per_image.csv"]
    assert not Path("T/scores.rank1.jsonl").exists()


def test_torchrun_predicts_as_one_process_does(
    run: Callable, make_pair: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """Five photographs, two of them damaged: named once, in their order, and the rest is done."""
    for index, name in enumerate(["a.png", "b.png", "c.png", "x/d.png", "x/e.png"]):
        write_image(Path("photos") / name, make_pair(40 + 7 * index, 50)[0])
    for name in ("b.png", "c.png"):  # of different processes
        path = Path("photos") / name
        path.write_bytes(path.read_bytes()[:-100])
    arguments = ("photos", "--checkpoint", checkpoint, "--device", "cpu", "--output")
    alone = run(predict_script.main, *arguments, "one")
    assert alone.status == 1
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(ROOT / "predict.py"), *map(str, arguments), "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=WAIT_SEC,
    )  # fmt: skip
    assert done.returncode == 1 and contents(Path("one")) == contents(Path("two")) != {}
    assert done.stdout.count("3 of 5 done") == 1 and done.stdout.count("checkpoint ") == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failures == [line for line in alone.err.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 2 and "b.png" in failures[0] and "c.png" in failures[1]
    assert "ZeroDivisionError" not in done.stderr and "error: " not in done.stderr


def test_wrong_inputs_are_told_once(checkpoint: Path, tmp_path: Path) -> None:
    (first, out, err), (second, *nothing) = finish(
        start(2, "predict.py", tmp_path / "nowhere.png", "--checkpoint", checkpoint, "--output", tmp_path / "out")
    )
    assert first == second == 2 and out == "" and nothing == ["", ""]
    assert err.count("\n") == 1 and "nowhere.png" in err and list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    fork_all(Path(sys.argv[1]))
