"""The world that README.md speaks of, in a folder: the project's programs, and tiny made-up data under its names."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np
from player import PROGRAMS, ROOT, SCRIPTS, module_name, shrink

import config
from utils.encoding import write_image
from utils.synthetic import composite, write_embedded

PLAYER = Path(__file__).with_name("player.py")
LINKED = ("config.py", "models", "utils", "tools", "Makefile", "requirements.txt")  # beside the scripts
WAIT_SEC = 300
OUTPUTS = {"--out", "--output", "--run-dir", "--target"}
OPERATORS = set("();<>|&")
_COMMAND = re.compile(r"(?:python (?:-m )?|torchrun .*? )(?:\./)?(tools[./]\w+|\w+(?=\.py))(?:\.py)?(?![\w.])(.*)")


def find_commands(text: str) -> list[tuple[str, list[str]]]:
    """The project's programs, by module, that a command or a script calls, with their arguments."""
    found = [(module_name(name), rest) for name, rest in _COMMAND.findall(text.replace("\\\n", " "))]
    return [(name, _arguments(rest)) for name, rest in found if name in PROGRAMS]


def _arguments(text: str) -> list[str]:
    """Those of one command, up to a shell's operator, or to the end of a string that it stands in."""
    lexer = shlex.shlex(text.removesuffix("'") if text.count("'") % 2 else text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(takewhile(lambda each: not each or set(each) - OPERATORS, lexer))


def by_flag(arguments: list[str]) -> list[tuple[str, str]]:
    """The values among the arguments, each with its flag; those before the first one, with none."""
    flag, values = "", []
    for each in arguments:
        if each.startswith("--"):
            flag = each
        else:
            values.append((flag, each))
    return values


class CommandFailed(Exception):
    """A command has ended with another status than 0; with its output."""


class Story:
    """A folder, in which commands are played in order.

    Args:
        folder: An empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, names = folder / "story", folder / "data", folder / "bin"
        self.written: set[Path] = set()
        self.folder.mkdir()
        for name in (*LINKED, *(f"{script}.py" for script in SCRIPTS)):
            (self.folder / name).symlink_to(ROOT / name)
        for shipped in ROOT.glob("checkpoints/start"):
            shutil.copytree(shipped, self.folder / "checkpoints" / shipped.name)
        write_data(self.data)
        # The address of a socket must be short.
        self.short = Path(tempfile.mkdtemp())
        for name in ("python", "torchrun"):
            _write_program(names / name, f'exec "{sys.executable}" -S "{PLAYER}" "{self.short}/socket" {name} "$@"')
        _write_program(names / "srun", 'exec "$@"')
        _write_program(names / "scontrol", "echo localhost")
        # make finds its .venv, in which Python is ours, too.
        _write_program(self.folder / ".venv/bin/python", f'exec "{names}/python" "$@"')
        (self.folder / ".venv/.installed").touch()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
            "PATH": f"{names}{os.pathsep}{os.environ['PATH']}",
            "SLURM_NNODES": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node",
            "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
            "PYTHON_EXEC": f"{names}/python",  # what torchrun starts
        }  # fmt: skip
        command = [sys.executable, str(PLAYER), f"{self.short}/socket", "serve"]
        self.server = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert self.server.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """Ends what runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, signal.SIGKILL)
        self.server.communicate()
        shutil.rmtree(self.short)

    def begin_page(self) -> None:
        """Makes the data as it was; what commands have made stays, such as checkpoints."""
        for source in self.data.iterdir():
            _remove(self.folder / source.name)
        shutil.copytree(self.data, self.folder, dirs_exist_ok=True)

    def play(self, command: str) -> str:
        """Plays a line, or a script, and returns its output.

        Raises:
            CommandFailed: Its status is not 0.
        """
        found = find_commands(command)
        for program, arguments in found:
            self._make_way(program, arguments)
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=WAIT_SEC)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output = "\n".join(line for line in re.split(r"[\r\n]+", output) if line.strip() and "%|" not in line)
        if process.returncode:
            lacking = [name for _, arguments in found for name in self._lacking(arguments)]
            hint = (
                f"\nthe story's folder lacks {', '.join(lacking)}: an earlier command makes it, or tests/story.py does"
            )
            raise CommandFailed(f"status {process.returncode}\n{output}{hint if lacking else ''}")
        return output

    def execute(self, source: str, name: str, line: int) -> None:
        """Executes Python code, which has a photograph as `image`; in a file, so named, it begins at that line.

        Raises:
            CommandFailed: It has raised an exception.
        """
        given = "from utils.images import read_rgb; image = read_rgb('portrait.jpg')"
        file = self.folder.parent / f"{name}.py"
        file.write_text(given + "\n" * (line - 1) + source.replace('"cuda"', '"cpu"'), encoding="utf-8")
        self.play(shlex.join(["python", str(file)]))

    def visit(self, command: str) -> None:
        """Starts the server of a page, opens the page, and ends the server."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ((program, arguments),) = find_commands(command)
        process = subprocess.Popen(
            [sys.executable, "-m", program, *shrink(program, arguments), "--port", str(port)],
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        answered, until = False, time.monotonic() + WAIT_SEC
        try:
            while not answered and process.poll() is None and time.monotonic() < until:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as page,
                ):
                    answered = page.status == 200
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=WAIT_SEC)
        finally:
            process.kill()
        if not answered or process.returncode not in (0, 130):
            raise CommandFailed(f"answered: {answered}, status {process.returncode}\n{output}")

    def _make_way(self, program: str, arguments: list[str]) -> None:
        """A page's commands are alternatives as often as steps: what one has written is not in the next one's way."""
        if "--resume" in arguments:
            return
        paths = {config.parse_train(arguments).run.run_dir} if program == "train" else set()
        paths |= {Path(value) for flag, value in by_flag(arguments) if flag in OUTPUTS}
        for path in paths & self.written:
            _remove(self.folder / path)
        self.written |= paths

    def _lacking(self, arguments: list[str]) -> list[str]:
        """What looks like a file or a folder that should be there, and is not."""
        names = [name for flag, name in by_flag(arguments) if flag not in OUTPUTS]
        looking = [name for name in names if re.fullmatch(r"\w[\w./-]*(/[\w-]+|\.[a-z]\w+)", name)]
        return [name for name in looking if not (self.folder / name).exists()]


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ the data


def write_data(folder: Path) -> None:
    """Writes what the pages take for given: pictures below 100 px, under the names that they have there."""
    drawn = [composite(0, number, height=66 + 2 * number, width=90) for number in range(8)]

    def write_jpeg(path: Path, rgb: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rgb[..., ::-1])

    def write(images: str, alphas: str, first: int, count: int = 2) -> None:
        for number in range(first, first + count):
            pair = drawn[number % len(drawn)]
            write_jpeg(folder / images / f"{number}.jpg", pair.rgb)
            write_image(folder / alphas / f"{number}.png", pair.alpha)

    for root in ("DIS5K", "datasets/DIS5K"):
        write(f"{root}/DIS-TR/im", f"{root}/DIS-TR/gt", 0, 6)
        for index, split in enumerate(("VD", "TE1", "TE2", "TE3", "TE4")):
            write(f"{root}/DIS-{split}/im", f"{root}/DIS-{split}/gt", 6 + 2 * index)
    write("datasets/HRS10K/TE-HRS10K/img_TE-HRS10K", "datasets/HRS10K/TE-HRS10K/label_TE-HRS10K", 0)
    write("HRSOD/HRSOD_train", "HRSOD/HRSOD_train_mask", 0, 4)
    write("HRSOD/HRSOD_test", "HRSOD/HRSOD_test_mask", 4)
    write("my_photos/train/im", "my_photos/train/gt", 0, 6)
    write("my_photos/val/im", "my_photos/val/gt", 6)
    write("F", "A", 0, 4)
    write("photos", "alphas", 6)  # the names of DIS-VD: mattes are scored against both
    shutil.copytree(folder / "alphas", folder / "mattes")
    for path in (folder / "alphas").iterdir():
        alpha = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        write_image(folder / "trimaps" / path.name, np.where((alpha > 0) & (alpha < 255), 128, alpha).astype(np.uint8))
    for name in ("places", "B"):  # without a subject
        for number in range(4):
            colours = np.linspace(20 * number, 250, 70 * 100 * 3).reshape(70, 100, 3)
            write_jpeg(folder / name / f"{number}.jpg", colours.astype(np.uint8))
    for number, name in enumerate(("photo.jpg", "portrait.jpg", "beach.jpg")):
        write_jpeg(folder / name, drawn[number].rgb)
    video = cv2.VideoWriter(str(folder / "dance.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (90, 66))
    for _ in range(4):
        video.write(np.ascontiguousarray(drawn[0].rgb[..., ::-1]))
    video.release()
    write_embedded(folder / "data/embedded", train=8, val=2, long_side=(64, 80), workers=1)
