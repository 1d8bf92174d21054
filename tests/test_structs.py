"""Structs come back from their JSON; what is wrong with it is one sentence."""

from pathlib import Path

import msgspec
import pytest

from ds2_deploy.errors import BenchError, ModelError
from ds2_deploy.structs import read_struct, struct_json


class Hop(msgspec.Struct):
    """As FeatureConfig has one: what it counts of it goes beyond a float's or an int's range."""

    hop_ms: float = 10.0
    name: str = ""

    def __post_init__(self) -> None:
        round(16 * self.hop_ms)
        if self.hop_ms < 1:
            raise ValueError("hop_ms is too small.\nIndeed.")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"hop_ms": "1"}', "Expected `float`, got `str` - at `$.hop_ms`"),
        (b'{"hop_ms": 0.5}', "hop_ms is too small"),
        (b'{"hop_ms": 1e308}', "cannot convert float infinity to integer"),
        (b'{"name": "\xff"}', "Invalid UTF-8 encoded string"),
        (b'{"x": ' + b"[" * 100_000, "maximum recursion depth exceeded while deserializing an object"),
    ],
)
def test_a_struct_that_is_damaged_is_one_sentence_with_its_cure(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "hop.json").write_bytes(content)
    with pytest.raises(ModelError) as refused:
        read_struct(tmp_path / "hop.json", Hop, ModelError, "is no hop", "; jump again")
    assert str(refused.value) == f"{tmp_path / 'hop.json'} is no hop: {reason}; jump again."


def test_a_struct_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no.json", "No such file or directory")):
        with pytest.raises(BenchError, match=rf"^Cannot read {path}: {reason}\.$"):
            read_struct(path, Hop, BenchError, "is no hop")


def test_a_struct_comes_back_from_its_json(tmp_path: Path) -> None:
    (tmp_path / "hop.json").write_text(struct_json(Hop(12.5)))
    assert read_struct(tmp_path / "hop.json", Hop, ModelError, "is no hop") == Hop(12.5)
    assert struct_json(Hop(12.5)) == '{\n  "hop_ms": 12.5,\n  "name": ""\n}'
    assert struct_json(Hop(12.5), indent=1) == '{\n "hop_ms": 12.5,\n "name": ""\n}'
