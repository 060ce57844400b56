"""Compares runs: their curves in one figure, and a table of their best validation SAD.

python -m tools.curves RUN [RUN ...] [--output curves.png]

A RUN is a run folder of train.py. It may still be running, or have been interrupted: it is shown as far as it got.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from config import CurvesConfig, parse_cli
from utils.errors import UserError, run_script
from utils.files import require_writable
from utils.plots import save_comparison
from utils.run_folder import RunTables, read_tables


def main() -> int:
    config = parse_cli(CurvesConfig, prog="python -m tools.curves", description=__doc__)
    runs = dict(zip(short_names(config.runs), map(read_run, config.runs), strict=True))
    require_writable(config.output.parent, "--output")
    save_comparison(config.output, runs)
    print(pd.DataFrame([{"run": name, **summary(run)} for name, run in runs.items()]).to_string(index=False))
    print(config.output)
    return 0


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path; more parts where that is the name of several.

    Raises:
        UserError: A folder is given twice.
    """
    paths = [folder.resolve() for folder in folders]
    for path, times in Counter(paths).items():
        if times > 1:
            raise UserError(f"RUN {path}: given {times} times; name each run once")
    taken = dict.fromkeys(paths, 1)  # parts of each
    while True:
        names = {path: str(Path(*path.parts[-number:])) for path, number in taken.items()}
        times = Counter(names.values())
        longer = [path for path in paths if times[names[path]] > 1 and taken[path] < len(path.parts)]
        if not longer:
            return [names[path] for path in paths]
        for path in longer:
            taken[path] += 1


def read_run(folder: Path) -> RunTables:
    """The tables of a run, as far as it has written them.

    Raises:
        UserError: There is no run, or its tables are damaged.
    """
    if not (folder / "log.csv").is_file():
        raise UserError(
            f"RUN {folder}: no log.csv there; name run folders of train.py that have made their first steps"
        )
    return read_tables(folder)


def summary(run: RunTables) -> dict[str, str]:
    """A row of the table: how far the run has come, and how well."""
    log, sad = run.log, run.validation.set_index("epoch")["SAD"]
    scored = sad.notna().any()
    return {
        "epoch": f"{log['epoch'].iloc[-1]:.0f}" if len(log) else "-",
        "step": f"{log['step'].iloc[-1]:.0f}" if len(log) else "-",
        "best SAD": f"{sad.min():.4f}" if scored else "-",
        "at epoch": f"{sad.idxmin():.0f}" if scored else "-",
        "last SAD": f"{sad.iloc[-1]:.4f}" if len(sad) else "-",
        "images/s": f"{log['images_per_second'].median():.2f}" if len(log) else "-",
    }


if __name__ == "__main__":
    run_script(main)
