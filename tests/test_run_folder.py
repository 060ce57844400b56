"""Tables survive a kill in the middle of a row."""

import pandas as pd
import pytest

from utils.run_folder import Table


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_cut_anywhere_is_dropped(tmp_path, cut):
    path = tmp_path / "log.csv"
    table = Table(path)
    for step in (10, 20, 120):
        table.append({"step": step, "epoch": 1, "loss": 0.5})
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: min(last + cut, len(whole) - 1)])
    Table(path, keep_up_to=20).append({"step": 30, "epoch": 2, "loss": 0.25})
    assert pd.read_csv(path)["step"].tolist() == [10, 20, 30]
    assert pd.read_csv(path)["epoch"].tolist() == [1, 1, 2]


def test_rows_after_the_checkpoint_are_dropped_and_an_empty_file_is_none(tmp_path):
    path = tmp_path / "log.csv"
    path.touch()
    table = Table(path)
    for step in (1, 2, 3):
        table.append({"step": step})
    Table(path, keep_up_to=2)
    assert pd.read_csv(path)["step"].tolist() == [1, 2]
    with pytest.raises(AssertionError):
        Table(path).append({"other": 3})
