"""What all commands share."""

from pathlib import Path
from typing import get_type_hints

import pytest
from typer.models import OptionInfo

from ds2_deploy.cli import app
from tests.conftest import Ds2

OPTIONS = [
    (str(command.name or name), info.default if isinstance(info.default, str) else f"--{parameter.replace('_', '-')}")
    for command in app.registered_commands
    if (name := command.callback.__name__.replace("_", "-"))  # type: ignore[union-attr]
    for parameter, hint in get_type_hints(command.callback, include_extras=True).items()
    for info in getattr(hint, "__metadata__", ())
    if isinstance(info, OptionInfo) and "Path" in str(hint.__origin__)
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_a_dash_is_no_file(
    ds2: Ds2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str
) -> None:
    """As output it became a file called `-`."""
    monkeypatch.chdir(tmp_path)
    outcome = ds2(command, "x", "y", option, "-")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"'{option}': - stands for neither stdin nor stdout here: name a file or folder." in outcome.err
    assert not [*tmp_path.iterdir()]


def test_options_of_paths_are_found() -> None:
    assert {("manifest", "--out"), ("evaluate", "--html"), ("train", "--valid"), ("transcribe", "--lm")} <= {*OPTIONS}
