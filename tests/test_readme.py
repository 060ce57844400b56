"""README.md and docs/: their commands are played in order, at a small scale, in a folder of made-up data.

A block of code is a list of commands, a script for bash, Python, or a list of the project's files. What stands in the
text or in a table, and all of results/ and of checkpoints/start/, which record long work, is parsed only.
"""

import importlib.util
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from player import ROOT, SCRIPTS
from story import CommandFailed, Story, find_commands

import config

PAGES = [*sorted(ROOT.glob("*.md"), key=lambda path: path.name != "README.md"), *sorted(ROOT.glob("docs/**/*.md"))]
RECORDS = [*sorted(ROOT.glob("results/**/*.md")), *sorted(ROOT.glob("checkpoints/start/*.md"))]
NOT_PLAYED = {  # each with the reason; of make, the recipe is read all the same
    "make test": "it runs this very test",
    "source .venv/bin/activate": "the Python it gives is the one that runs this test",
}
OPTIONAL = {  # what commands need that not everybody has installed
    r"onnx": ("onnx", "onnxscript", "onnxruntime"),
    r"tools\..*(multilevel|pymatting)": ("pymatting",),
    r"tools\.app": ("gradio",),
    r"--tensorboard": ("tensorboard",),
}


# ------------------------------------------------------------------------------------------------ reading


class Block(NamedTuple):
    """Code of a page, with the number of its first line, and what a fence says it is."""

    page: str
    line: int
    language: str
    text: str

    @property
    def kind(self) -> str:
        """commands, script, python, files, or other."""
        if self.language == "python" or (not self.language and re.match(r"(from|import) \w", self.text)):
            return "python"
        if self.language not in ("", "bash", "sh", "shell", "console"):
            return "other"
        if self.text.startswith("#!"):
            return "script"
        return "files" if (ROOT / self.text.split()[0]).exists() else "commands"


class Step(NamedTuple):
    """A command, a script or Python code, with the number of its first line."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0]}"


def read_blocks(path: Path) -> list[Block]:
    """Fenced and indented blocks of code."""
    found: list[Block] = []
    page, fence, code, before = path.relative_to(ROOT).as_posix(), None, [], ""  # fence: None outside of one
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), "the end"], 1):
        mark = re.match(r" {0,3}```+ *(\w*)", line)
        indented = fence is None and line.startswith("    ") and (code or not before.strip())
        if mark is None and (fence is not None or indented or (code and not line.strip())):
            code.append(line if fence is not None else line[4:])
        elif code or fence is not None:
            found.append(Block(page, number - len(code), fence or "", textwrap.dedent("\n".join(code))))
            closed, code, fence = fence is not None, [], None
            if closed:  # else a fence may begin where the indented block ends
                continue
        if mark is not None:
            fence = mark[1]
        before = line
    assert fence is None, f"{page}: a fence is open at its end"
    return [block for block in found if block.text.strip()]


def read_steps(block: Block) -> Iterator[Step]:
    """What is to be played of a block."""
    if block.kind in ("python", "script"):
        yield Step(block.page, block.line, block.kind, block.text)
    elif block.kind == "commands":
        parts: list[str] = []
        for number, line in enumerate(block.text.splitlines(), block.line):
            parts.append(line.removesuffix("\\").strip())
            if line.endswith("\\"):
                continue
            command = re.sub(r"(^|\s+)#\s.*", "", " ".join(parts))
            if command:
                yield Step(block.page, number - len(parts) + 1, "command", command)
            parts = []


def parsed_commands() -> Iterator[tuple[str, str, list[str]]]:
    """Page, program and arguments of all commands that name their program, in blocks and in the text."""
    for page in (*PAGES, *RECORDS):
        text = re.sub(r"^( {4}|```.*).*\n", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
        named = [f"python {span}" for span in spans if re.match(r"\w+\.py [^/]", span)]
        steps = [step.text for block in read_blocks(page) for step in read_steps(block)]
        for command in (*steps, *spans, *named):
            yield from ((page.name, *each) for each in find_commands(command))


BLOCKS = [block for page in PAGES for block in read_blocks(page)]
STEPS = [step for block in BLOCKS for step in read_steps(block)]
PARSED = list(parsed_commands())


# ------------------------------------------------------------------------------------------------ playing


class Telling:
    """How far the story is told."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.failures: list[str] = []  # of each step; empty if all is well

    def play(self, step: Step) -> None:
        if is_left_out(step):
            return
        if step.kind == "python":
            self.story.execute(step.text, step.page.replace("/", "_"), step.line)
        elif "tools.app" in step.text:
            self.story.visit(step.text)
        else:
            self.story.play(step.text)

    def tell(self, number: int) -> str:
        """Plays what is not played yet, up to a step. Returns its failure."""
        for index in range(len(self.failures), number + 1):
            if index == 0 or STEPS[index].page != STEPS[index - 1].page:
                self.story.begin_page()
            try:
                self.play(STEPS[index])
                self.failures.append("")
            except CommandFailed as error:
                self.failures.append(str(error))
        return self.failures[number]


def is_left_out(step: Step) -> str:
    """Why a step is not played; empty if it is."""
    for pattern, modules in OPTIONAL.items():
        if re.search(pattern, step.text):
            lacking = [name for name in modules if importlib.util.find_spec(name) is None]
            if lacking:
                return f"needs {' '.join(lacking)}"
    return NOT_PLAYED.get(step.text, "")


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telling]:
    story = Story(tmp_path_factory.mktemp("story"))
    yield Telling(story)
    story.close()


@pytest.mark.parametrize("number", range(len(STEPS)), ids=[str(step)[:80] for step in STEPS])
def test_what_is_written_works(telling: Telling, number: int) -> None:
    """A step that needs an earlier one fails with it; that one is then named."""
    step = STEPS[number]
    if reason := is_left_out(step):
        pytest.skip(reason)
    if failure := telling.tell(number):
        failed = [f"{each.page}:{each.line}" for each, why in zip(STEPS, telling.failures, strict=False) if why]
        earlier = f"\nfailed before it: {', '.join(failed[:-1])}" if failed[1:] else ""
        pytest.fail(f"{step}\n{failure}{earlier}", pytrace=False)


def test_what_is_not_played_is_written(telling: Telling) -> None:
    for command in NOT_PLAYED:
        assert command in [step.text for step in STEPS]
        if command.startswith("make "):
            assert "python" in telling.story.play(command.replace("make", "make -n", 1))


# ------------------------------------------------------------------------------------------------ parsing


class Understood(Exception):
    """A command line was read."""


def understand(monkeypatch: pytest.MonkeyPatch, program: str, arguments: list[str]) -> None:
    """Has a program read its command line, and nothing more."""
    module, parse = importlib.import_module(program), "parse_train" if program == "train" else "parse_cli"

    def stop(*given: Any, **more: Any) -> None:
        getattr(config, parse)(*given, **more)
        raise Understood

    monkeypatch.setattr(module, parse, stop)
    monkeypatch.setattr("sys.argv", [program, *arguments])
    with pytest.raises((Understood, SystemExit)) as stop:
        module.main()
    assert stop.type is Understood or stop.value.code == 0  # after --help


def test_there_are_commands() -> None:
    assert len(STEPS) > 25 and {step.kind for step in STEPS} >= {"command", "python"}
    assert {program for _, program, _ in PARSED} >= SCRIPTS
    assert {page for page, *_ in PARSED} >= {"README.md"}


@pytest.mark.parametrize(("page", "program", "arguments"), PARSED)
def test_commands_are_understood(
    monkeypatch: pytest.MonkeyPatch, page: str, program: str, arguments: list[str]
) -> None:
    understand(monkeypatch, program, arguments)


def test_files_that_are_named_are_there() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        linked = {page.parent / name for name in re.findall(r"\]\(([^)#:]+)\)", text)}
        written = {ROOT / name for name in re.findall(r"`((?:utils|tools|models|tests)/\w+\.py)`", text)}
        assert [path for path in sorted(linked | written) if not path.exists()] == [], page
    lists = [line.split()[0] for block in BLOCKS if block.kind == "files" for line in block.text.splitlines()]
    assert lists and [name for name in lists if not list(ROOT.glob(name.rstrip("/")))] == []
