"""The one exception a user may see as a single line, and how scripts turn it into exit status 2."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

# Of a write that names no file: our own files are written by utils.files, which names them.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Wrong use or wrong input. The message is one line that names the file or flag and the remedy.

    Attributes:
        kind: Why an image file cannot be used, a key of utils.problems.ERRORS; empty for all else.
    """

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Terminated(BaseException):
    """SIGTERM, or another signal that ends a program, raised as Ctrl-C is."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def printable(text: str) -> str:
    r"""Text as one line that any terminal can show: a file name may hold a line break, or bytes that are no text.

    What Python does not count as printable is escaped, such as \n; letters of all languages stay as they are.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def report_failures(problems: Sequence[str]) -> int:
    """Names what failed on stderr, a line each, and gives the exit status."""
    for problem in problems:
        print(f"failed: {printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


def run_script(main: Callable[[], int]) -> None:
    """Runs `main` and exits with its status: 0 all done, 1 some items failed, 2 wrong use.

    Ctrl-C gives 130, SIGTERM 143, a closed terminal 129. Only `UserError` is shortened to its message: any other
    exception is a fault of ours and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends nothing
    try:
        with _signals_raise():
            status = main()
        if sys.stdout is not None:
            sys.stdout.flush()  # now, while an error can still be told
    except UserError as error:
        _tell(f"error: {printable(_message(error))}")
        status = 2
    except KeyboardInterrupt:
        _tell("interrupted")
        status = 128 + signal.SIGINT
    except Terminated as error:
        _tell("terminated")
        status = 128 + error.number
    except BrokenPipeError:  # whoever read the output has gone, as `head` does: no fault, and nobody to tell
        _drop_output()
        status = 141
    except OSError as error:
        if error.errno not in _NO_SPACE or error.filename is not None:
            raise
        _drop_output()
        _tell(f"error: output cannot be written ({error.strerror}); free space, or send it elsewhere")
        status = 2
    sys.exit(status)


def _message(error: UserError) -> str:
    """From a worker process it may arrive with a traceback around it, at whose end it stands behind its type."""
    return str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2].removesuffix("\n")


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # of a closed or full stderr: the status still tells
        print(line, file=sys.stderr)


def _drop_output() -> None:
    """What is left of the output goes nowhere, or Python would stumble over it again at its end."""
    with contextlib.suppress(OSError):  # no file of the system's behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and a closed terminal unwind the stack as Ctrl-C does: processes are ended, half files removed.

    What the program was told to ignore, as nohup does, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield
        return

    def stop(number: int, _: object) -> None:
        raise Terminated(number)

    # SIGHUP, of a terminal that is closed, is unknown to Windows.
    numbers = (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
    before = {each: signal.signal(each, stop) for each in numbers if signal.getsignal(each) != signal.SIG_IGN}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
