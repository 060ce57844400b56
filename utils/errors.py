"""The one exception a user may see as a single line, and how scripts turn it into exit status 2."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Wrong use or wrong input. The message is one line that names the file or flag and the remedy."""


def run_script(main: Callable[[], int]) -> None:
    """Runs `main` and exits with its status: 0 all done, 1 some items failed, 2 wrong use.

    Only `UserError` is shortened to its message: any other exception is a fault of ours and keeps its traceback.
    """
    try:
        status = main()
    except UserError as error:
        # From a worker process it arrives with a traceback around it; the message itself is its last line.
        message = str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
        print(f"error: {message}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # whoever read the output has gone, as `head` does: no fault, and nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
