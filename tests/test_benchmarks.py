"""What the scripts of benchmarks/ share: parts of manifests, the folder of the corpora, what is missing."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ds2_deploy.errors import MissingPackageError
from ds2_deploy.manifest import read_manifest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import engine_matrix
import machine

BENCHMARKS = Path(machine.__file__).parent


@pytest.mark.parametrize(
    ("count", "kept"),
    [(1, [0]), (3, [0, 3, 6]), (9, [*range(9)]), (10, [*range(10)]), (11, [*range(10)]), (640, [*range(10)])],
)
def test_a_part_of_a_manifest_holds_no_utterance_twice(tmp_path: Path, count: int, kept: list[int]) -> None:
    lines = [{"audio_filepath": f"wav/{i}.wav", "duration": 1.0 + i, "text": "a", "speaker": str(i)} for i in range(10)]
    whole = tmp_path / "m.jsonl"
    whole.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    part = machine.part_of(whole, count, tmp_path / "part" / "p.jsonl")
    whole_utterances = read_manifest(whole)
    assert read_manifest(part) == [whole_utterances[i] for i in kept]  # wherever the part lies


@pytest.mark.parametrize("named", [None, "", "/nowhere"])
def test_without_the_corpora_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    monkeypatch.delenv("DS2_DATA", raising=False)
    if named is not None:
        monkeypatch.setenv("DS2_DATA", named)
    with pytest.raises(typer.BadParameter, match="DS2_DATA must name the folder of the corpora"):
        machine.data()


def test_no_other_script_reads_the_folder_of_the_corpora() -> None:
    """Or it ends in a traceback where there is none; a study's manifests may be absolute."""
    reading = [path.name for path in BENCHMARKS.rglob("*.py") if 'environ["DS2_DATA"]' in path.read_text()]
    assert reading == []


@pytest.mark.parametrize(("runtime", "code"), [("auto", 0), ("tensorrt", 1)])
def test_without_tensorrt_no_engine_is_built_and_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], runtime: str, code: int
) -> None:
    """`make bench` goes on, since it names no runtime."""

    def missing(_: str) -> None:
        raise MissingPackageError("TensorRT is not installed.")

    monkeypatch.setattr(engine_matrix, "choose", missing)
    with pytest.raises(typer.Exit) as end:
        engine_matrix.main(runtime, save=False)
    assert end.value.exit_code == code
    assert capsys.readouterr().err == "No engine is built: TensorRT is not installed.\n"


def test_a_script_of_long_finds_what_it_shares_with_the_others() -> None:
    script = BENCHMARKS / "long" / "delay_wer.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_index_has_every_script_with_its_question_and_every_result() -> None:
    index = (BENCHMARKS / "README.md").read_text()
    for script in sorted([*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("long/*.py")]):
        question = (ast.get_docstring(ast.parse(script.read_text())) or "").split("\n")[0]
        assert f"]({script.relative_to(BENCHMARKS)}) | {question} |" in index, script
    for link in re.findall(r"\]\(([^)#]+)", index):
        assert (BENCHMARKS / link).exists(), link
    for result in (BENCHMARKS / "results").iterdir():
        assert result.stem in index, result
