"""README.md: every command in it is one that the programs understand."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import config

ROOT = Path(__file__).resolve().parents[1]
START = re.compile(r"(?:torchrun --nproc-per-node \d+ |python )(?:-m )?(\S+)(.*)")


def commands() -> list[tuple[str, str]]:
    """The programs of all code blocks, as modules, with their arguments."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    lines = [re.sub(r"\s{2,}#.*", "", line[4:]) for line in lines if line.startswith("    ")]
    found = [START.fullmatch(line) for line in lines]
    return [(each[1].removesuffix(".py"), each[2]) for each in found if each]


class Understood(Exception):
    """A command line was read."""


def test_there_are_commands() -> None:
    assert len(commands()) > 25
    assert {"train", "eval", "predict", "export_inference", "preprocess_dis5k"} <= {
        program for program, _ in commands()
    }


@pytest.mark.parametrize(("program", "arguments"), commands())
def test_commands_are_understood(monkeypatch: pytest.MonkeyPatch, program: str, arguments: str) -> None:
    if program == "tools.app":
        pytest.importorskip("gradio")
    module, parse = importlib.import_module(program), "parse_train" if program == "train" else "parse_cli"

    def stop(*given: Any, **more: Any) -> None:
        getattr(config, parse)(*given, **more)
        raise Understood

    monkeypatch.setattr(module, parse, stop)
    monkeypatch.setattr("sys.argv", [program, *shlex.split(arguments)])
    with pytest.raises(Understood):
        module.main()


def test_files_that_are_named_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(
        re.findall(r"`((?:utils|tools|models|tests)/\w+\.py)`", text)
    )
    assert named and [name for name in sorted(named) if not (ROOT / name).exists()] == []
