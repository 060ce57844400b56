"""What bash finds under the names of `python` and `torchrun` where the pages' commands are played (story.py).

It appends flags that make the work of a program small, those of SMALL, and runs it. So that not each program imports
PyTorch, one process does, `serve`, and forks another for each of them.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import re
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - {"config"}
PROGRAMS = SCRIPTS | {f"tools.{path.stem}" for path in ROOT.glob("tools/*.py")} - {"tools.__init__"}

_CPU = "--device cpu "
SMALL = {
    "train": _CPU + "--backbone nano --no-pretrained --image-size 64 --window-size 2 --decoder-width 8 --previews 1 "
    "--epochs 1 --batch-size 2 --accumulation-steps 1 --num-workers 0 --precision fp32",
    "eval": _CPU + "--num-workers 0 --examples 1",
    "predict": _CPU,
    "preprocess_dis5k": "--num-workers 1",
    "tools.app": _CPU,
    "tools.benchmark": _CPU + "--presets demo --sizes 96x64 --precisions fp32 --seconds 0.01 --threads 1",
    "tools.benchmark_foreground": "--pictures 2 --long-side 96",
    "tools.benchmark_loader": "--long-sides 160 --image-size 64 --samples 2 --workers 1",
    "tools.benchmark_metrics": "--sides 64 --repeats 1 --images 0",
    "tools.check_data": "--num-workers 1",
    "tools.compose": "--per-foreground 2 --test-share 0.5 --num-workers 1",
    "tools.make_embedded": "--train 2 --val 1 --long-side 64 80 --workers 1",
    "tools.make_trimaps": "--num-workers 1",
    "tools.preview": _CPU,
    "tools.solve_foreground": "--num-workers 1",
    "tools.study": _CPU + "--arms baseline --seeds 0 --samples 1 --jobs 1",
    "tools.study_cost": _CPU + "--candidates 4x1 --steps 2 --crop-px 32 --images 1",
    "tools.study_refinement": _CPU + "--images 1 --long-sides 64 96 --rival-side 64",
}
# train.py refuses these without a refiner, and without a teacher.
WITH_REFINER = "--refiner-width 4 --refiner-blocks 1 --native-px 32 --native-crops 1"
WITH_TEACHER = "--teacher-width 4 --teacher-epochs 1"


def module_name(program: str) -> str:
    """Of a program that is named by its file, or by its module."""
    return program.removeprefix("./").removesuffix(".py").replace("/", ".")


def shrink(program: str, arguments: list[str]) -> list[str]:
    """The arguments of a program, and those that make its work small."""
    import config

    flags = SMALL.get(program, "").split()
    if program == "train":
        preset = arguments[0] if arguments and arguments[0] in config.PRESETS else "tsr"
        if config.PRESETS[preset]().model.refiner and "--no-refiner" not in arguments:
            flags += WITH_REFINER.split()
        if config.PRESETS[preset]().teacher.teacher != "none" and "--teacher" not in arguments:
            flags += WITH_TEACHER.split()
    kept, gives_way = [], False
    for each in arguments:
        if each.startswith("--"):
            gives_way = each in flags  # what is given twice is refused
        if not gives_way:
            kept.append(each)
    return kept + flags


def ask(address: str, name: str, arguments: list[str]) -> int:
    """What `python` and `torchrun` are for bash: has a program run by the server, and returns its status."""
    if name == "python":
        if arguments[:1] == ["-u"]:
            arguments = arguments[1:]
        program = "".join(arguments[1:2] if arguments[:1] == ["-m"] else arguments[:1])
        if not program.endswith(".py") and program not in PROGRAMS:  # -c, -m pip ...
            os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps([name, arguments, os.getcwd(), {**os.environ}]).encode())
        server.shutdown(socket.SHUT_WR)
        return int(server.recv(8) or 1)


def serve(address: str) -> None:
    """Forks a process for each request: importing PyTorch takes longer than most of them."""
    sys.path.insert(0, str(ROOT))
    for script in sorted(SCRIPTS):
        importlib.import_module(script)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:  # its input ends with who has started it
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    try:
                        answer(connection)
                    finally:
                        os._exit(0)


def answer(connection: socket.socket) -> None:
    """Has one more process run the program, which ends as those of multiprocessing do: that is faster, too."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as request:
        asked = json.load(request)
    process = multiprocessing.get_context("fork").Process(target=run, args=(streams, *asked))
    process.start()
    process.join()
    status = process.exitcode if process.exitcode >= 0 else 128 - process.exitcode
    with contextlib.suppress(OSError):  # nobody waits any more
        connection.sendall(str(status).encode())


def run(streams: list[int], name: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Does what `python` and `torchrun` do, at a small scale."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = environment["PYTHON_EXEC"]  # so what a program starts is small, too
    if name == "torchrun":
        arguments = [re.sub(r":\d+$", ":0", each) for each in arguments]  # any free port
        arguments[arguments.index("--nproc-per-node") + 1] = "2"
        arguments = ["-m", "torch.distributed.run", *arguments]
    is_module = arguments[0] == "-m"
    program, arguments = arguments[is_module], arguments[is_module + 1 :]
    sys.argv = [program, *shrink(module_name(program), arguments)]
    if is_module:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    address, name, *arguments = sys.argv[1:]
    sys.exit(serve(address) if name == "serve" else ask(address, name, arguments))
