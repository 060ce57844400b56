"""utils.files: folders that are checked before the work, by many processes at once, and what is newer than what."""

import os
import threading
from pathlib import Path

import pytest

from utils import files
from utils.errors import UserError
from utils.files import CannotWriteError, is_up_to_date, remove_file, require_apart, require_writable


def test_processes_may_ask_for_one_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, both = files.write_atomically, threading.Barrier(2)

    def write_and_wait(*arguments: object) -> None:
        write(*arguments)
        both.wait(10)  # until the other one has written too: both remove the same file

    monkeypatch.setattr(files, "write_atomically", write_and_wait)
    problems = []

    def ask(name: str) -> None:
        try:
            require_writable(tmp_path / name, "--output")
        except UserError as error:
            problems.append(str(error))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("run 1", "run 2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_removed_is_a_line(tmp_path: Path) -> None:
    remove_file(tmp_path / "none")
    (tmp_path / "file").touch()
    remove_file(tmp_path / "file")
    assert not (tmp_path / "file").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWriteError, match="folder: cannot be removed"):
        remove_file(tmp_path / "folder")


@pytest.mark.parametrize("output", ["in", "in/deep", "in/../in/new", "link", "link/new", "in/sheet.png"])
def test_no_output_among_the_inputs(output: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for may_hold in (False, True):
        with pytest.raises(UserError, match=r"--out .*lies in it; choose another folder"):
            require_apart(tmp_path / output, "--out", [tmp_path / "other", tmp_path / "in"], may_hold=may_hold)


def test_an_output_around_the_inputs_is_allowed_where_it_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for output in (tmp_path, Path("."), Path("set")):
        with pytest.raises(UserError, match=r"--out .*holds set/in; choose another folder"):
            require_apart(output, "--out", [Path("set/in")])
        require_apart(output, "--out", [Path("set/in")], may_hold=True)
    for beside in ("set/in 2", "set/i", "other", "set/in.png"):
        require_apart(Path(beside), "--out", [Path("set/in")])


def test_outputs_are_up_to_date_if_none_is_older_than_an_input(tmp_path: Path) -> None:
    paths = {}
    for name, time in (("old", 10), ("new", 20), ("newer", 30)):
        paths[name] = tmp_path / name
        paths[name].touch()
        os.utime(paths[name], (time, time))
    old, new, newer = paths.values()
    assert is_up_to_date([new], [old]) and is_up_to_date([new, newer], [old, new])
    assert not is_up_to_date([old], [new]) and not is_up_to_date([newer, old], [new])
    assert not is_up_to_date([new], [old, newer])
    assert not is_up_to_date([tmp_path / "none"], [old]) and not is_up_to_date([new], [tmp_path / "none"])
