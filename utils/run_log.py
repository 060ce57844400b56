"""What a run writes down as it goes: its tables, and the same for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import printable
from utils.events import Events
from utils.learner import Dropped
from utils.run_folder import Table


class RunLog:
    """Opens the tables of a run, without the rows that will be written again.

    Args:
        folder: Of the run.
        step: Optimiser steps of the checkpoint that is continued, or 0.
        epoch: Its epochs, validations included.
        tensorboard: Write events as well.
    """

    def __init__(self, folder: Path, *, step: int, epoch: int, tensorboard: bool):
        self.steps = Table(folder / "log.csv", keep_up_to={"step": step})
        self.dropped = Table(folder / "dropped.csv", keep_up_to={"step": step}, columns=("step", "files"))
        self.validations = Table(folder / "validation.csv", keep_up_to={"epoch": epoch})
        self.events = Events(folder / "events", step + 1) if tensorboard else None

    def add_step(self, row: dict[str, Any], dropped: Sequence[Dropped]) -> None:
        """A row of log.csv, and the steps since the last one that were dropped."""
        self.steps.append(row)
        for each in dropped:
            self.dropped.append({"step": each.step, "files": printable("; ".join(each.names))})
        if self.events is not None:
            self.events.add(row["step"], row)

    def add_validation(self, row: dict[str, Any]) -> None:
        """A row of validation.csv."""
        self.validations.append(row)
        if self.events is not None:
            self.events.add(row["step"], row, group="validation")

    def close(self) -> None:
        """Ends the events, if there are any."""
        if self.events is not None:
            self.events.close()
