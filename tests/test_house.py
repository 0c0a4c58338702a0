"""The house rules that a machine can hold: floors, sizes, late imports, README and types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.verbs import parser

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "swarm"

# Each floor may import from its own and from those below it.
FLOORS = (
    {"cli", "commands"},
    {"verbs"},
    {"spawn", "clean"},
    {"supervisor", "order"},
    {"runner"},
    {"attendant", "reception"},
    {"bookkeeper"},
    {"agents", "doctor"},
    {"verify"},
    {"watch", "web", "report", "exports"},
    {"experiment", "merge", "door", "views", "control"},
    {"launchers", "pollinate", "panes", "tmux", "terminal"},
    {"pristine", "novelty"},
    {"sweep"},
    {"simulate"},
    {"allocate"},
    {"drift", "snapshots", "weights"},
    {"frozen"},
    {"worktree", "trial", "mailbox", "leaderboard", "heartbeat"},
    {"examination"},
    {"children", "summary"},
    {"job"},
    {"scoring"},
    {"policies"},
    {"claims"},
    {"beliefs"},
    {"hyperparameters", "standings"},
    {"workers"},
    {"spending"},
    {"journal", "decide", "effects", "fingerprint", "devices", "gpus", "cores", "locks", "strays",
     "processes", "logfile", "assignments", "config", "meter", "memory", "sandbox", "keys",
     "prices"},
    {"records", "paths", "disk", "filesystem", "noise", "pace", "garbage",
     "backoff", "directions", "arguments"},
    {"errors"},
    {"harness"},
)  # fmt: skip
HEAVY = {
    "torch", "numpy", "optuna", "anthropic", "openai", "httpx2", "matplotlib", "textual",
    "starlette", "uvicorn", "pyarrow", "wandb", "mlflow", "tensorboard", "ray", "sky",
}  # fmt: skip
WRAPPED = {
    "optuna": {"agents/tpe.py"},
    "anthropic": {"agents/models/anthropic.py"},
    "openai": {"agents/models/openai.py"},
    "httpx2": {"agents/models/anthropic.py", "agents/models/openai.py"},
    "libtmux": {"tmux.py"},
    "git": {"worktree.py"},
    "matplotlib": {
        "views/plots.py",
        "commands/simulating.py",
        "report/progress.py",
        "report/labels.py",
    },
    "pyarrow": {"exports/parquet.py"},
    "tensorboard": {"exports/to_tensorboard.py"},
    "mlflow": {"exports/to_mlflow.py"},
    "wandb": {"exports/to_wandb.py"},
    "shtab": {"commands/completion.py"},
    "starlette": {"web/app.py"},
    "uvicorn": {"web/server.py"},
    "textual": {f"watch/{name}.py" for name in ("app", "lines", "overview", "screens")},
}


def modules() -> dict[str, ast.Module]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in files}


def imports(tree: ast.Module) -> set[str]:
    """Every module that is imported anywhere in the file, in full."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unit(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def floor_of(name: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def test_imports_point_downward_only() -> None:
    units = {unit(name) for name in modules()} - {"__init__"}
    assert units == set().union(*FLOORS), "every module has its floor, every name its module"
    for name, tree in modules().items():
        for imported in imports(tree):
            parts = imported.split(".")
            if parts[0] != "swarm" or len(parts) < 2 or parts[1] not in units:
                continue
            assert floor_of(unit(name)) <= floor_of(parts[1]), f"{name} imports {imported}"


def test_heavy_libraries_stay_behind_their_module() -> None:
    for name, tree in modules().items():
        if name.startswith("harness/"):
            continue
        for imported in imports(tree):
            top = imported.split(".")[0]
            allowed = WRAPPED.get(top, set() if top in HEAVY else {name})
            assert name in allowed, f"{name} imports {top}"


def test_the_harness_stands_alone_and_imports_heavy_libraries_late() -> None:
    for name, tree in modules().items():
        if not name.startswith("harness/"):
            assert not [i for i in imports(tree) if i.startswith("swarm.harness")], name
            continue
        ours = {i for i in imports(tree) if i.split(".")[0] == "swarm"}
        assert all(i.startswith("swarm.harness") for i in ours), f"{name} imports {ours}"
    program = "import prepare, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "swarm.harness.evaluation" in loaded
    assert not loaded & (HEAVY | {"pyarrow", "tiktoken", "requests", "rustbpe"})


def test_only_config_and_the_harness_read_the_environment() -> None:
    for name, tree in modules().items():
        if name.startswith("harness/"):  # runs in trials, which are told by their environment
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                is_os = isinstance(node.value, ast.Name) and node.value.id == "os"
                assert not is_os or name == "config.py", f"{name}, line {node.lineno}"


def test_only_the_command_line_exits_and_prints() -> None:
    exits = {"cli.py", "agents/session.py"}  # the latter turns SIGTERM into an orderly end
    for name, tree in modules().items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {ast.unparse(node.func) for node in calls}
        assert "sys.exit" not in called or name in exits, name
        printers = ("cli.py", "commands/", "agents/session.py", "harness/settings.py")
        assert "print" not in called or name.startswith(printers), name


def test_files_and_functions_stay_small() -> None:
    for name, tree in modules().items():
        lines = len((PACKAGE / name).read_text().splitlines())
        assert lines <= 350, f"{name} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 50, f"{name}: {node.name} has {length} lines"


def test_every_public_module_and_class_says_what_it_is() -> None:
    for name, tree in modules().items():
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}: {node.name}"


def readme_commands() -> list[str]:
    """The `swarm …` commands in README's code blocks and spans."""
    text = (ROOT / "README.md").read_text() + (ROOT / "program.md").read_text()
    blocks = re.findall(r"^(?:\$ |    +)?(swarm [a-z].*)$", text, flags=re.M)
    spans = re.findall(r"`(swarm [a-z][^`]*)`", text)
    return [" ".join(command.split("#")[0].split()) for command in blocks + spans]


def test_the_readme_names_only_commands_that_exist() -> None:
    action = next(a for a in parser()._actions if isinstance(a.choices, dict))
    assert isinstance(action.choices, dict)
    commands = readme_commands()
    assert len(commands) > 15
    for command in commands:
        words = command.split()
        assert words[1] in action.choices, command
        known = action.choices[words[1]].format_help()
        for flag in re.findall(r"(?<!\S)--?[a-z-]+", command.split("'")[0].split('"')[0]):
            assert flag in known, f"{command}: {flag}"


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "--strict", "swarm"]],
)
def test_the_tools_are_content(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_project_names_no_place_of_its_own() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    places = re.compile(r"pypi\.org|files\.pythonhosted|download\.pytorch|/root/")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_file() and path != Path(__file__) and path.suffix not in (".png", ".jsonl"):
            found = places.search(path.read_text(errors="replace"))
            assert not found, f"{name}: {found and found[0]}"
