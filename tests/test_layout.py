"""The layout: who may import whom, nothing happens at import, nothing lies about at the top level."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train", "eval", "predict", "export_inference", "preprocess_dis5k"}
OURS = {"config", "models", "utils", "tools", "tests", *SCRIPTS}
THIRD_PARTY = {  # what requirements.txt brings, by the name it is imported under
    "torch", "torchvision", "timm", "numpy", "cv2", "PIL", "tqdm", "matplotlib", "pandas", "tyro", "safetensors",
    "py_sod_metrics",
}  # fmt: skip
OPTIONAL = {"gradio", "pymatting", "onnx", "onnxruntime", "onnxscript"}  # extras that an error asks for
TOP_LEVEL = {
    "config.py", "train.py", "eval.py", "predict.py", "export_inference.py", "preprocess_dis5k.py",
    "models", "utils", "checkpoints", "figures", "tests", "tools", "results", "docs", ".ci",
    "Makefile", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", ".gitignore",
}  # fmt: skip
MODULES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.py", "models/**/*.py", "utils/**/*.py", "tools/**/*.py")
    for path in ROOT.glob(pattern)
)


def imported(path: Path) -> set[str]:
    """Names of all modules a file imports, at its top or inside of functions, relative imports included."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(".".join([*path.parent.parts, node.module or ""]) if node.level else node.module)
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def modules(package: str) -> list[Path]:
    return [path for path in MODULES if path.parts[0] == package]


def test_the_modules_are_there() -> None:
    """Otherwise every test here would pass for want of files."""
    assert {path.stem for path in MODULES if len(path.parts) == 1} == {"config", *SCRIPTS}
    assert len(modules("models")) > 4 and len(modules("utils")) > 10


def test_config_imports_the_standard_library_and_tyro_only() -> None:
    assert packages(Path("config.py")) <= sys.stdlib_module_names | {"tyro"}


@pytest.mark.parametrize("path", modules("models"), ids=str)
def test_models_import_torch_timm_and_models_only(path: Path) -> None:
    assert packages(path) <= sys.stdlib_module_names | {"torch", "timm", "models"}


@pytest.mark.parametrize("path", modules("utils"), ids=str)
def test_utils_import_neither_config_nor_scripts(path: Path) -> None:
    assert packages(path) <= sys.stdlib_module_names | THIRD_PARTY | OPTIONAL | {"models", "utils"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_extras_are_imported_only_where_they_are_used(path: Path) -> None:
    at_the_top = [
        node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in at_the_top for alias in node.names} | {
        getattr(node, "module", "") for node in at_the_top
    }
    assert not {str(name).split(".")[0] for name in names} & OPTIONAL


@pytest.mark.parametrize("path", [Path(f"{name}.py") for name in sorted(SCRIPTS)] + modules("tools"), ids=str)
def test_scripts_do_not_import_each_other(path: Path) -> None:
    allowed = {"config", "models", "utils"} | ({"tools"} if path.parts[0] == "tools" else set())
    assert packages(path) & OURS <= allowed
    assert packages(path) - OURS <= sys.stdlib_module_names | THIRD_PARTY | OPTIONAL


def test_requirements_bring_what_is_imported() -> None:
    text = (ROOT / "requirements.txt").read_text().lower()
    distributions = {"cv2": "opencv-python-headless", "PIL": "pillow", "py_sod_metrics": "pysodmetrics"}
    used = set().union(*(packages(path) for path in MODULES)) & THIRD_PARTY
    assert {name for name in used if distributions.get(name, name.lower()) not in text} == set()


def process_state(path: Path) -> Iterator[str]:
    """Uses of the command line and of the environment in a file."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "sys"}:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules("models") + modules("utils"), ids=str)
def test_nothing_below_the_scripts_reads_the_command_line_or_the_environment(path: Path) -> None:
    forbidden = {"sys.argv", "os.environ", "os.environb", "os.getenv", "os.putenv", "os.chdir", "Path.cwd", "os.getcwd"}
    assert not forbidden & set(process_state(path))


def test_importing_has_no_side_effect(tmp_path: Path) -> None:
    """In an empty folder, with a hopeless command line: nothing is read, written, printed, seeded or started."""
    working = tmp_path / "empty"
    working.mkdir()
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
    code = f"""
import random, sys, threading
sys.argv = ["x", "--hopeless"]
import numpy, torch, timm, torchvision, tyro, matplotlib, pandas, cv2
states = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].copy()
def now():
    return torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), matplotlib.get_backend()
settings = now()
threads = threading.active_count()
sys.path.insert(0, {str(ROOT)!r})
for name in {names!r}:
    __import__(name)
assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
assert (numpy.random.get_state()[1] == states[2]).all()
assert settings == now()
assert threads == threading.active_count()
assert sys.argv == ["x", "--hopeless"]
"""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=working, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
    assert list(working.iterdir()) == []


def test_the_top_level_holds_the_agreed_files_only() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [Path(line) for line in listing.stdout.splitlines()]
    assert {path.parts[0] for path in files if (ROOT / path).exists()} - TOP_LEVEL == set()


@pytest.mark.parametrize("name", ["misc", "common", "helpers", "util", "tools"])
def test_no_module_is_a_drawer_for_everything(name: str) -> None:
    assert not any(path.stem == name for path in modules("utils") + modules("models"))


def test_the_readme_shows_what_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)
    assert not re.findall(r"@[A-Z]+@", text), "a placeholder"
