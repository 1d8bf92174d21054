"""ModelMetadata: its JSON, what it refuses, and the arithmetic of samples and frames."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.errors import ModelError
from ds2_deploy.metadata import FORMAT_VERSION, ModelMetadata, Provenance
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.text.alphabet import Alphabet

GLOBAL = FeatureConfig(normalization="global", spectrum="log_mel", mel_bands=3)
STATISTICS = FeatureStatistics(mean=(-1.5, 0.1, 1 / 3), deviation=(1.0, 2.0, 1e-7))

FULL = ModelMetadata(
    name="an4",
    feature=GLOBAL,
    statistics=STATISTICS,
    alphabet=Alphabet(labels=("a", " ", "ö", "_"), blank=3),
    model=ModelConfig(
        conv=(ConvLayer(channels=4, kernel=(3, 5), stride=(1, 3)),), cell="lstm", bidirectional=False, lookahead=8
    ),
    provenance=Provenance(ds2_version="0.1.0", recipe="an4", train=("a.jsonl", "b.jsonl"), seed=7, valid_wer=0.0466),
)


@pytest.mark.parametrize("metadata", [ModelMetadata(), FULL])
def test_json_brings_back_every_value(metadata: ModelMetadata) -> None:
    text = metadata.to_json()
    assert ModelMetadata.from_json(text, "a test") == metadata
    assert ModelMetadata.from_json(text.encode(), "a test") == metadata


def test_json_is_readable_by_people_and_other_programs() -> None:
    content = json.loads(FULL.to_json())
    assert content["format_version"] == FORMAT_VERSION
    assert content["alphabet"] == {"labels": ["a", " ", "ö", "_"], "blank": 3}
    assert content["feature"]["sample_rate"] == 16000
    assert content["model"]["conv"][0]["kernel"] == [3, 5]
    assert content["provenance"]["valid_wer"] == 0.0466
    assert FULL.to_json().count("\n") > 20


def changed(**values: Any) -> str:
    return json.dumps(json.loads(FULL.to_json()) | values)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "2", None])
def test_another_format_version_is_refused_before_anything_else(version: object) -> None:
    with pytest.raises(ModelError, match=rf"m\.json has format version {version}, this ds2_deploy reads 1: upgrade"):
        ModelMetadata.from_json(changed(format_version=version, unknown_from_the_future=1), "m.json")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"feature": {"windw_ms": 20}}, r"unknown field `windw_ms`.*\$\.feature"),
        ({"feature": {"hop_ms": 0}}, r"feature\.hop_ms is 0"),
        ({"feature": {"window": "kaiser"}}, r"'kaiser'.*\$\.feature\.window"),
        ({"alphabet": {"labels": ["a"], "blank": 1}}, r"alphabet\.blank is 1"),
        ({"model": {"cell": "tcn"}}, r"'tcn'.*\$\.model\.cell"),
        ({"model": 3}, r"\$\.model"),
        ({"statistics": None}, "statistics are missing"),
        ({"feature": {"hop_ms": 1e308}}, r"feature\.hop_ms is inf samples"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=rf"^m\.json does not describe a model: .*{named}"):
        ModelMetadata.from_json(changed(**values), "m.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b"{}", b"\xff\xfe", b'{"name": "\xff"}', b"RIFF", b"[" * 100_000]
)
def test_other_files_are_not_metadata(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"^m\.json is not the metadata of a ds2 model: .*; export the model again\.$"):
        ModelMetadata.from_json(content, "m.json")


def test_reading_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    with pytest.raises(ModelError, match=r"metadata\.json: No such file"):
        ModelMetadata.read(path)
    path.write_text(FULL.to_json(), encoding="utf-8")
    assert ModelMetadata.read(path) == FULL
    with pytest.raises(ModelError, match="Is a directory"):
        ModelMetadata.read(tmp_path)


@pytest.mark.parametrize("normalization", ["utterance", "none"])
def test_statistics_belong_to_global_and_running_normalisation_alone(normalization: Any) -> None:
    for feature in (GLOBAL, msgspec.structs.replace(GLOBAL, normalization="running")):
        assert ModelMetadata(feature=feature, statistics=STATISTICS).statistics == STATISTICS
        with pytest.raises(ValueError, match="statistics are missing"):
            ModelMetadata(feature=feature)
    with pytest.raises(ValueError, match=f"'{normalization}' and statistics are present"):
        ModelMetadata(
            feature=FeatureConfig(normalization=normalization, spectrum="log_mel", mel_bands=3), statistics=STATISTICS
        )


@pytest.mark.parametrize("statistics", [((0.0,) * 2, (1.0,) * 2), ((0.0,) * 3, (1.0,) * 4), ((0.0,) * 4, (1.0,) * 3)])
def test_statistics_hold_a_value_for_each_bin(statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    mean, deviation = statistics
    with pytest.raises(ValueError, match=f"{len(mean)} means and {len(deviation)} deviations, the features 3 bins"):
        ModelMetadata(feature=GLOBAL, statistics=FeatureStatistics(mean=mean, deviation=deviation))


def test_convolutions_that_leave_no_bin_are_refused() -> None:
    wide = ModelConfig(conv=(ConvLayer(channels=1, kernel=(12, 3)),))  # 1 bin + 5 + 5 zeros
    with pytest.raises(ValueError, match="no frequency bin"):
        ModelMetadata(feature=FeatureConfig(spectrum="log_mel", mel_bands=1), model=wide)


CONVOLUTIONS = [
    ((11, 2), (11, 1)),
    ((1, 1),),
    ((5, 3), (3, 2), (7, 2)),
    ((4, 2), (2, 1)),  # even kernels: their padding is one short of "same"
    ((8, 1), (8, 3), (6, 2)),
]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("window_ms", [20.0, 5.0])
@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
def test_min_samples_is_the_shortest_input_with_an_output_frame(
    convolutions: tuple[tuple[int, int], ...], window_ms: float, center: bool
) -> None:
    """A hop longer than the window and a centred, odd window are among the cases."""
    layers = tuple(ConvLayer(channels=1, kernel=(1, kernel), stride=(1, stride)) for kernel, stride in convolutions)
    feature = FeatureConfig(sample_rate=1000, window_ms=window_ms, hop_ms=6.0, center=center)
    metadata = ModelMetadata(feature=feature, model=ModelConfig(conv=layers))
    shortest = next(samples for samples in range(10_000) if metadata.output_frames(samples) > 0)
    assert metadata.min_samples == shortest
    assert metadata.output_frames(shortest) == 1


def test_samples_frames_and_seconds_of_the_papers_network() -> None:
    metadata = ModelMetadata()  # 320 samples every 160; strides 2 and 1
    assert metadata.frame_s == 0.02
    assert metadata.min_samples == 320
    # 16000 samples: 99 windows, and ceil(99 / 2) = 50 frames of 20 ms
    assert [metadata.output_frames(samples) for samples in (0, 319, 320, 479, 480, 640, 16000)] == [
        *(0, 0, 1, 1, 1, 2, 50)
    ]
