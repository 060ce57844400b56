"""Scalars for TensorBoard: `tensorboard --logdir checkpoints` shows runs while they are trained."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import CannotWriteError


class Events:
    """Writes rows as TensorBoard events, each to the disk at once: a killed run loses none.

    Args:
        folder: The event files of a run lie here; a resume adds one.
        first_step: The first step that will be added: 1 in a new run, the checkpoint's + 1 in a resumed one.
            TensorBoard forgets this step and later ones, which the run had reached before it was interrupted.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:  # nobody else needs it
            raise UserError("--tensorboard: it is not installed; pip install tensorboard, or leave it out") from error
        self.folder = folder
        try:
            self._writer = SummaryWriter(str(folder), purge_step=first_step)
        except OSError as error:
            raise self._cannot_write(error) from error

    def add(self, step: int, row: Mapping[str, Any], group: str = "train") -> None:
        """Adds the numbers of a row; step itself, and what is no number, is left out.

        Args:
            step: Of the optimiser.
            row: As in log.csv.
            group: Heading the row's columns are shown under.
        """
        try:
            for column, value in row.items():
                if column != "step" and isinstance(value, Real) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{group}/{column}", float(value), step)
            self._writer.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Nothing can be added afterwards."""
        self._writer.close()

    def _cannot_write(self, error: OSError) -> CannotWriteError:
        reason = error.strerror or error
        return CannotWriteError(f"{self.folder}: cannot be written ({reason}); free space, or leave out --tensorboard")
