"""Trains the three strategies and the switches between them on the same data, for as long, and says what each is worth.

python -m tools.study [--data-roots data/embedded photos] [--seeds 0 1 2] [--budget MINUTES] [--jobs 2]

All networks see the same number of pictures and are scored on the same ones, at their own size, with their last
weights. Interrupted, or when the budget is spent, it saves what is under way; the same command goes on. The table is
written anew after each network: means over the seeds, and how far they spread.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil, inf
from pathlib import Path
from typing import Any

from config import PRESETS, Config, EmbeddedConfig, StudyConfig, parse_cli
from utils.errors import UserError, run_script
from utils.files import require_apart, require_writable, to_json, write_atomically, write_json
from utils.inference import select_device
from utils.pairs import Pair, find_pairs
from utils.parallel import cpu_cores
from utils.run_folder import differences, provenance, versions
from utils.strategies import ARMS, DENSE, STRATEGIES, Run, gather, plan, score, scored_pictures, training_command
from utils.strategy_plots import as_markdown, save_bands, save_compared, save_convergence
from utils.synthetic import has_embedded, write_embedded

TICK_SEC = 0.2


def main() -> int:
    config = parse_cli(StudyConfig, prog="python -m tools.study", description=__doc__)
    arms = config.arms or tuple(ARMS)
    for arm in arms:
        if arm not in ARMS:
            raise UserError(f"--arms {arm!r}: unknown; choose from {', '.join(map(repr, ARMS))}")
    data = {root.name: root for root in config.data_roots}
    for root in config.data_roots:
        if root == StudyConfig.data_roots[0] and not root.exists():
            write_embedded(root, **EmbeddedConfig().pictures())
    held_out = {name: find_pairs(root, dataset_of(root), "val") for name, root in data.items()}
    for folder in (config.runs, config.out, config.figures):
        require_writable(folder, "--runs, --out, --figures")
        require_apart(folder, "--runs, --out, --figures", config.data_roots, may_hold=True)
    runs = plan(list(data), arms, config.seeds, config.runs)
    refuse_less(config, runs)
    for run in runs:
        refuse_other(config, run, data[run.data], held_out[run.data])
    left = train_all(config, data, held_out, runs)
    rows = record(config, runs, held_out)
    if rows:
        draw(config, runs, held_out, rows)
        print((config.out / "study.md").read_text(encoding="utf-8"))
    if left:
        print(f"{left} of {len(runs)} networks are left; the same command goes on with them")
    return 0


def dataset_of(root: Path) -> str:
    """What train.py calls the data of a folder."""
    return "embedded" if has_embedded(root) else "custom"


# ------------------------------------------------------------------------------------------------ training


def train_all(
    config: StudyConfig, data: Mapping[str, Path], held_out: Mapping[str, Sequence[Pair]], runs: Sequence[Run]
) -> int:
    """Trains and scores what is not scored yet, `jobs` at a time; returns how many are left when the budget is spent.

    Raises:
        UserError: A training failed; its log says why.
    """
    deadline = inf if config.budget is None else time.monotonic() + 60 * config.budget
    waiting, at_work = [run for run in runs if not run.is_scored], {}
    with ended(at_work):
        while (waiting and time.monotonic() < deadline) or at_work:
            while waiting and len(at_work) < config.jobs and time.monotonic() < deadline:
                run = waiting.pop(0)
                print(f"{run.data}, {run.arm}, seed {run.seed}: training; {len(waiting)} more")
                at_work[run] = start(config, run, data[run.data])
            for run, process in list(at_work.items()):
                if time.monotonic() >= deadline:
                    process.terminate()
                    process.wait()
                elif process.poll() is None:
                    continue
                del at_work[run]
                if process.returncode == 0:
                    score(run, held_out[run.data], config.device)
                    record(config, runs, held_out)
                    print(f"{run.data}, {run.arm}, seed {run.seed}: scored, see {config.out / 'study.md'}")
                elif time.monotonic() < deadline:
                    raise UserError(f"train.py ended with status {process.returncode}; {log_of(run)} says why")
            time.sleep(TICK_SEC)
    return sum(not run.is_scored for run in runs)


def command_of(config: StudyConfig, run: Run, root: Path) -> list[str]:
    """How a network is trained."""
    images = len(find_pairs(root, dataset_of(root), "train"))
    return training_command(
        run,
        preset=config.preset,
        dataset=dataset_of(root),
        data_root=root,
        epochs=max(1, ceil(config.samples / images)),
        device=config.device,
    )


def refuse_less(config: StudyConfig, runs: Sequence[Run]) -> None:
    """Raises UserError where the tables in the output hold networks that this study does not know."""
    path = config.out / "study.json"
    if not path.is_file():
        return
    known = {(run.data, run.arm, run.seed) for run in runs}
    rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if row["arm"] != DENSE]
    if lost := [row for row in rows if (row["data"], row["arm"], row["seed"]) not in known]:
        example = f"{lost[0]['arm']} on {lost[0]['data']}, seed {lost[0]['seed']}"
        raise UserError(
            f"--out: {path} holds {len(lost)} networks that are not in this study ({example}); choose other folders "
            f"for --out and --figures"
        )


def refuse_other(config: StudyConfig, run: Run, root: Path, pairs: Sequence[Pair]) -> None:
    """Raises UserError where a run of other settings, or on other pictures, is scored; train.py sees to the rest."""
    if not run.is_scored:
        return
    if scored_pictures(run) != [pair.name for pair in pairs]:
        raise UserError(f"--runs: {run.folder} was scored on other pictures than {root} holds; choose another folder")
    _, _, preset, *flags = command_of(config, run, root)
    now = parse_cli(Config, prog="train.py", description="", argv=flags, default=PRESETS[preset]())
    before = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))["config"]
    if differing := differences(before, to_json(asdict(now))):
        raise UserError(f"--runs: {run.folder} has other settings ({'; '.join(differing)}); choose another folder")


def start(config: StudyConfig, run: Run, root: Path) -> subprocess.Popen:
    """Begins or continues a training; what it says goes into a log."""
    command = command_of(config, run, root)
    log_of(run).parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, cpu_cores() // config.jobs))
    with open(log_of(run), "ab") as log:
        # In a group of its own: Ctrl-C is this process', which ends it.
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={"OMP_NUM_THREADS": threads, **os.environ}, start_new_session=True
        )


def log_of(run: Run) -> Path:
    """Where a training says what it does: beside its folder, which is its own."""
    return run.folder.with_name(f"{run.folder.name}.log")


@contextmanager
def ended(processes: Mapping[Run, subprocess.Popen]) -> Iterator[None]:
    """Whatever happens: what is under way saves its last step and ends."""
    try:
        yield
    finally:
        for process in processes.values():
            process.terminate()  # not SIGINT: they ignore it where this process was told to, as by nohup
        for process in processes.values():
            process.wait()


# ------------------------------------------------------------------------------------------------ results


def record(config: StudyConfig, runs: Sequence[Run], held_out: Mapping[str, Sequence[Pair]]) -> list[dict[str, Any]]:
    """Writes what is scored so far, as JSON and as tables; returns the rows."""
    rows = gather(runs)
    if rows:
        about = {**provenance("tools.study", sys.argv[1:]), **versions(select_device(config.device))}
        images = {name: len(pairs) for name, pairs in held_out.items()}
        write_json(config.out / "study.json", {**about, "samples": config.samples, "images": images, "rows": rows})
        text = as_markdown(rows, images)
        write_atomically(config.out / "study.md", lambda file: file.write(text.encode()))
    return rows


def draw(
    config: StudyConfig,
    runs: Sequence[Run],
    held_out: Mapping[str, Sequence[Pair]],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Draws the scores, and of each data the strategies beside each other where the first seed's are scored."""
    save_convergence(config.figures / "study_convergence.png", rows)
    save_bands(config.figures / "study_bands.png", rows, held_out)
    compared = {
        name: {run.arm: run for run in runs if run.data == name and run.seed == config.seeds[0] and run.is_scored}
        for name in held_out
    }
    complete = {
        name: {arm: of_data[arm] for arm in STRATEGIES}
        for name, of_data in compared.items() if of_data.keys() >= {*STRATEGIES}
    }  # fmt: skip
    if complete:
        save_compared(config.figures / "tsr_compare.png", complete, held_out)


if __name__ == "__main__":
    run_script(main)
