"""utils.files: folders that are checked before the work, by many processes at once, and what is newer than what."""

import errno
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from utils import files
from utils.errors import UserError
from utils.files import (
    CannotWriteError,
    add_name,
    is_up_to_date,
    remove_file,
    remove_stale,
    require_apart,
    require_writable,
    temporary_name,
    to_json,
    write_json,
)


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


def test_who_is_alone_removes_every_temporary_file(tmp_path: Path) -> None:
    """Also those that bear its own number: in containers, each start has the same one."""
    ours, kept = [temporary_name(), temporary_name(".old")], [".1.tmp", "1-2.tmp", ".note.tmp", ".1-2.tmp.txt"]
    for name in (*ours, *kept):
        (tmp_path / name).touch()
    remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    remove_stale(tmp_path, alone=True)
    assert {each.name for each in tmp_path.iterdir()} == set(kept)


def test_a_folder_left_unfinished_goes_as_a_whole(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    idle, written_to = (tmp_path / "x" / f".{process.pid}-{thread}.old.tmp" for thread in (1, 2))
    for folder in (idle, written_to):
        (folder / "new").mkdir(parents=True)
        (folder / "new" / "000001.png").touch()
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (0, 0))
    (written_to / "new" / "000002.png").touch()
    remove_stale(tmp_path, recursive=True)
    assert not idle.exists() and (written_to / "new" / "000001.png").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_holds_what_the_file_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path, name = tmp_path / "a", tmp_path / "b"
    name.write_bytes(b"older")
    path.write_bytes(b"new")
    for _ in range(2):  # the second time, both are names of one file already
        add_name(path, name)
        assert name.read_bytes() == path.read_bytes() == b"new"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]
    assert path.samefile(name) == links
    files.write_atomically(path, lambda file: file.write(b"newer"))
    assert name.read_bytes() == b"new"


def test_what_a_kill_left_is_not_copied_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary name that is left may be a link to the very file that is to be copied."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    os.link(path, tmp_path / temporary_name())
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    add_name(path, tmp_path / "b")
    assert path.read_bytes() == (tmp_path / "b").read_bytes() == b"content"


class Curve(NamedTuple):
    removed: np.ndarray
    work: float


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_json_has_no_number_that_is_not_finite(number: float, tmp_path: Path) -> None:
    """Other languages' parsers refuse the words that Python writes for them."""
    write_json(tmp_path / "a.json", {"a": [number, 1.0], "curve": Curve(np.array([number, 0.25]), number)})
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": [None, 1.0], "curve": {"removed": [None, 0.25], "work": None}}


def test_json_types_of_everything_that_is_recorded() -> None:
    value = {1024: {"path": Path("a") / "b", "none": None, "yes": True, "sides": (1, np.int64(2)), "name": "a"}}
    assert to_json(value) == {1024: {"path": "a/b", "none": None, "yes": True, "sides": [1, 2], "name": "a"}}
    assert to_json(value)[1024]["yes"] is True
