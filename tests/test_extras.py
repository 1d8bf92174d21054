"""What packages are called: by pyproject.toml, by pip, and by what ds2 says of them."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ds2_deploy import doctor, extras
from ds2_deploy.bench import environment

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[>\[]", requirement)[0] for requirement in requirements}


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Packages that are installed, with their versions, instead of those that are."""
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    return installed


def test_an_extra_brings_the_package_that_its_sentence_names() -> None:
    assert names(PROJECT["dependencies"]) == {extras.packages_of(module)[0] for module in extras.CORE}
    for module, extra in extras.EXTRAS.items():
        package = extras.packages_of(module)[0]
        assert package in names(PROJECT["optional-dependencies"][extra])
        assert extras.missing_sentence(f"{module}.deep").startswith(f"This needs the package '{package}', which")


def test_doctor_tells_of_every_package_that_the_project_names(there: dict[str, str]) -> None:
    optional = (names(packages) for extra, packages in PROJECT["optional-dependencies"].items() if extra != "dev")
    known = names(PROJECT["dependencies"]).union(*optional)
    assert set(doctor.examine()["packages"]) == known - {"onnxruntime-gpu"}  # of which onnxruntime stands for both
    there["onnxruntime-gpu"] = "1.27.0"
    assert set(doctor.examine()["packages"]) == known - {"onnxruntime"}
    there["onnxruntime"] = "1.26.0"  # one breaks the other: both are told
    assert set(doctor.examine()["packages"]) == known


@pytest.mark.parametrize("name", ["tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"])
def test_tensorrt_rtx_is_told_by_whichever_package_it_came(there: dict[str, str], tmp_path: Path, name: str) -> None:
    assert extras.distribution_version("tensorrt", "tensorrt_rtx") is None
    there |= {name: "1.7.1", "numpy": "2.0"}
    assert extras.distribution_version("tensorrt", "tensorrt_rtx") == f"{name} 1.7.1"
    told = doctor.examine()["packages"]
    assert (told[name], [other for other in told if "rtx" in other]) == ("1.7.1", [name])
    assert extras.installed_packages(*environment.MODULES) == {"numpy": "2.0", name: "1.7.1"}
    there["tensorrt"] = "10.9"
    assert extras.distribution_version("tensorrt", "tensorrt_rtx") == "tensorrt 10.9"
