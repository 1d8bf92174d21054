"""Manifests: what a line means, and what is said of one that is wrong."""

import json

import pytest

from ds2_deploy.errors import ManifestError
from ds2_deploy.manifest import Utterance, read_manifest


def test_manifest_paths_are_relative_to_it(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"audio_filepath": "a/b.wav", "duration": 1.5, "text": "Hello  WORLD", "speaker": "x"}) + "\n\n"
    )
    (utterance,) = read_manifest(tmp_path / "m.jsonl")
    assert utterance == Utterance(tmp_path / "a/b.wav", 1.5, "Hello  WORLD", "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no utterance"),
        ("{}\n", "line 1 has no field 'audio_filepath'"),
        ('{"audio_filepath": "a", "duration": 1, "text": "b"}\nnonsense\n', "line 2 is not JSON"),
        ('{"audio_filepath": "a", "duration": "long", "text": "b"}\n', "line 1 is not an object with"),
        ('{"audio_filepath": "a", "duration": -1, "text": "b"}\n', "duration at least 0"),
        ("[1]\n", "line 1 is not an object"),
        ("7\n", "line 1 is not an object"),
        pytest.param("[" * 100_000 + "\n", "line 1 is not an object", id="nested"),
        ('{"audio_filepath": "a", "duration": 1e999, "text": "b"}\n', "duration at least 0"),
    ],
)
def test_bad_manifests(tmp_path, content, said):
    (tmp_path / "m.jsonl").write_text(content)
    with pytest.raises(ManifestError, match=said):
        read_manifest(tmp_path / "m.jsonl")


def test_missing_and_binary_manifests(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "m.jsonl")
    for content in (b"\xff\xfe\x00", b'{"audio_filepath": "a", "duration": 1, "text": "s\xed"}'):
        (tmp_path / "m.jsonl").write_bytes(content)
        with pytest.raises(ManifestError, match="line 1 is not UTF-8"):
            read_manifest(tmp_path / "m.jsonl")


def test_a_byte_order_mark_is_no_part_of_a_manifest(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'\xef\xbb\xbf{"audio_filepath": "a", "duration": 1, "text": "b"}')
    assert read_manifest(tmp_path / "m.jsonl")[0].text == "b"
