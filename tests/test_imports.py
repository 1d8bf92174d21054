"""What is heavy is imported where it is used: a light import, quick help. Packages import downwards."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ds2_deploy
from ds2_deploy.cli import app

HEAVY = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx"}


def loaded_by(statement: str) -> set[str]:
    """Modules present in a fresh process after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(outcome.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "ds2_deploy",
        "ds2_deploy.cli",
        "ds2_deploy.metadata",
        "ds2_deploy.recognizer",
        "ds2_deploy.runtime.ort_backend",
        "ds2_deploy.doctor",
        "export",
        "training",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def test_streams_do_without_the_recognizer() -> None:
    assert "ds2_deploy.recognizer" not in loaded_by("import ds2_deploy.streaming.files")


def test_the_names_of_the_package_are_loaded_when_asked_for() -> None:
    statement = "import ds2_deploy; assert 'numpy' not in __import__('sys').modules; from ds2_deploy import *"
    loaded = loaded_by(f"{statement}; assert Recognizer.open and Dispatcher.open and EndpointConfig() and BeamConfig()")
    assert "ds2_deploy.recognizer" in loaded
    assert not loaded & HEAVY
    assert set(ds2_deploy.__all__) == set(ds2_deploy._MODULES)
    with pytest.raises(AttributeError, match="has no attribute 'recogniser'"):
        ds2_deploy.recogniser  # noqa: B018


def test_the_command_line_loads_no_numpy() -> None:
    assert "numpy" not in loaded_by("import ds2_deploy.cli")


def test_nothing_is_kept_of_the_user_or_sent(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry would leave an identifier below HOME and send events later."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import numpy\nfrom ds2_deploy.recognizer import Recognizer\n"
    code += "Recognizer.open(backend='onnxruntime').recognize([numpy.zeros(16000, 'float32')])"
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_who_imports_has_our_types() -> None:
    """Type checkers take a package's hints only where this file comes with it (PEP 561)."""
    package = Path(ds2_deploy.__file__).parent
    assert (package / "py.typed").is_file()
    project = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["ds2_deploy"]


def imported_by(file: Path) -> set[str]:
    """Top-level modules that a file's statements name, those within functions, too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names += [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module), level=0):
                names.append(module)
    return {name.partition(".")[0] for name in names}


def test_commands_alone_import_training_and_export() -> None:
    package = Path(ds2_deploy.__file__).parent
    above = {file.relative_to(package) for file in package.rglob("*.py") if imported_by(file) & {"training", "export"}}
    assert {str(file.parent) for file in above} == {"commands"}, sorted(map(str, above))


COMMANDS = sorted(str(command.name or command.callback.__name__) for command in app.registered_commands)  # type: ignore[union-attr]


def _children_s() -> float:
    """Processor seconds of finished child processes: what a command takes on a machine that is not busy."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize("arguments", [[], *([name.replace("_", "-")] for name in COMMANDS)])
def test_help_answers_at_once(arguments: list[str]) -> None:
    fastest = 10.0
    for _ in range(3):
        start = _children_s()
        command = [sys.executable, "-m", "ds2_deploy", *arguments, "--help"]
        outcome = subprocess.run(command, capture_output=True, text=True, check=True)
        fastest = min(fastest, _children_s() - start)
    assert outcome.stdout.startswith("Usage:")
    assert not any(doubled in outcome.stdout for doubled in ("[[", "{{", "...}", "...]")), (
        "typer's signs, and one's own"
    )
    assert outcome.stderr == ""
    assert fastest < 0.5
