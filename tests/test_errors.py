"""utils.errors: one line for every fault of the user, whatever is in it, and the exit status."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import UserError, printable, run_script
from utils.files import CannotWriteError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ended(capsys: pytest.CaptureFixture[str]) -> Callable:
    """`ended(error)`: the status and stderr of a script that raises it."""

    def ended(error: BaseException) -> tuple[int, str]:
        def main() -> int:
            raise error

        with pytest.raises(SystemExit) as stop:
            run_script(main)
        return stop.value.code, capsys.readouterr().err

    return ended


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb\r\x1b[31m.png", r"a\nb\r\x1b[31m.png"),
        ("\n", r"\n"),
        ("two\u2028lines", r"two\u2028lines"),
        ("日本 é ñ 'x' \\", "日本 é ñ 'x' \\"),
        (os.fsdecode(b"\xff.png"), r"\udcff.png"),
    ],
)
def test_a_name_never_breaks_the_line(ended: Callable, name: str, shown: str) -> None:
    assert printable(name) == shown
    assert ended(UserError(f"{name}: damaged")) == (2, f"error: {shown}: damaged\n")


@pytest.mark.parametrize("kind", [UserError, CannotWriteError])
def test_an_error_of_a_data_loaders_process_is_its_message(ended: Callable, kind: type[UserError]) -> None:
    """As torch hands it on: the traceback as text, with a line break of the name in it."""
    text = f"Caught it.\nOriginal Traceback:\n  File x\n{kind.__module__}.{kind.__name__}: a\nb.png: damaged\n"
    assert ended(kind(text)) == (2, "error: a\\nb.png: damaged\n")
    assert ended(pickle.loads(pickle.dumps(kind("a.png: damaged")))) == (2, "error: a.png: damaged\n")


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    for error in (ValueError("x"), FileNotFoundError(2, "gone", "a.png"), OSError(28, "full", "a.png")):

        def main(error: Exception = error) -> int:
            raise error

        with pytest.raises(type(error)):
            run_script(main)


def test_ctrl_c_and_sigterm(ended: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt()) == (130, "interrupted\n")
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 143 and capsys.readouterr().err == "terminated\n" and cleaned
    assert signal.getsignal(signal.SIGTERM) is before


def script(code: str, *options: str, **streams: object) -> subprocess.CompletedProcess:
    code = f"import sys\nfrom utils.errors import run_script\ndef main():\n    {code}\n    return 0\nrun_script(main)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([sys.executable, *options, "-c", code], cwd=ROOT, **streams)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("options", [(), ("-u",)])
@pytest.mark.parametrize("lines", [1, 5000])
def test_output_that_cannot_be_written(options: tuple[str, ...], lines: int) -> None:
    with open("/dev/full", "wb") as full:
        done = script(f"for _ in range({lines}): print('all is well')", *options, stdout=full)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: output cannot be written")


def test_names_that_are_no_text_can_be_printed_anywhere() -> None:
    code = r"print('\udcff é'); print('\udcff é', file=sys.stderr)"
    for encoding in ("utf-8", "ascii"):
        done = script(code, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
        assert done.stdout == done.stderr == (r"\udcff é" + "\n").encode(encoding, "backslashreplace")
