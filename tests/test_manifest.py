"""Manifests: what a line means, and what is said of one that is wrong."""

import json

import pytest

from ds2_deploy.errors import ManifestError
from ds2_deploy.manifest import Entry, Utterance, lines, read_manifest


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
        ('{"audio_filepath": "a", "duration": "long", "text": "b"}\n', "duration a number of at least 0"),
        ('{"audio_filepath": "a", "duration": -1, "text": "b"}\n', "duration a number of at least 0"),
        ("[1]\n", "line 1 is not an object"),
        ("7\n", "line 1 is not an object"),
        ('{"audio_filepath": "a", "duration": 1, "text": null}\n', "text must be strings"),
        ('{"audio_filepath": "a", "duration": %s, "text": "b"}\n' % ("1" * 5000), "line 1 is not an object"),
        pytest.param("[" * 100_000 + "\n", "line 1 is not an object", id="nested"),
        ('{"audio_filepath": "a", "duration": 1e999, "text": "b"}\n', "duration a number of at least 0"),
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


def test_what_is_no_rule_but_has_a_meaning(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        '{"audio_filepath": "a", "duration": "1.5", "offset": null, "text": "a \\ud83d", "speaker": 7}\n'
        '{"audio_filepath": "b", "duration": 2, "offset": "0", "text": "null", "speaker": null, "more": NaN}\n'
    )
    assert read_manifest(tmp_path / "m.jsonl") == [
        Utterance(tmp_path / "a", 1.5, "a \ufffd", "7"),  # half an emoji
        Utterance(tmp_path / "b", 2.0, "null", ""),
    ]


def test_a_recording_needs_neither_text_nor_duration(tmp_path):
    found = ('{"audio_filepath": "a"}', '{"audio_filepath": "b", "duration": null, "text": null, "more": NaN}',
             '\ufeff{"audio_filepath": "/c", "duration": "long", "text": "d"}')  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n\n".join(found), encoding="utf-8")
    entries = [entry for _, entry in lines(tmp_path / "m.jsonl", Entry)]
    assert [(str(entry.path(tmp_path / "m.jsonl")), entry.text) for entry in entries] == [
        (str(tmp_path / "a"), None),
        (str(tmp_path / "b"), None),
        ("/c", "d"),
    ]
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a"}\n{"duration": 1, "text": "b"}\n')
    with pytest.raises(ManifestError, match="line 2 has no field 'audio_filepath': a line needs audio_filepath"):
        list(lines(tmp_path / "m.jsonl", Entry))
