"""Optimisation profiles against shapes worked out by hand."""

from itertools import pairwise

import pytest

from ds2_deploy.errors import ConfigError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.engine_info import ShapeRange
from export.profiles import DEFAULT_BATCH, DEFAULT_SECONDS, Range, make_profiles, parse_batch, parse_seconds

INPUTS = {"audio": (-1, -1), "audio_lengths": (-1,)}
METADATA = ModelMetadata()  # 16 kHz, 20 ms window: at least 320 samples


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "a:b:c", "1:2:x", "1,2,3", "::"])
def test_malformed(text: str) -> None:
    with pytest.raises(ConfigError, match="is not MIN:OPT:MAX"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["2:1:3", "1:3:2", "-1:2:3", "nan:1:2", "1:nan:2", "1:2:inf"])
def test_out_of_order(text: str) -> None:
    with pytest.raises(ConfigError, match="is not in order"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["0:1:2", "1:1.5:2", "0.5:1:1"])
def test_batch_counts_recordings(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--batch {text} does not count recordings"):
        parse_batch(text)


def test_one_profile_for_each_range_of_seconds() -> None:
    profiles = make_profiles(
        INPUTS, parse_batch("1:8:32"), [parse_seconds("0.5:1:2"), parse_seconds("2:5:10")], METADATA
    )
    assert [p.inputs["audio"] for p in profiles] == [
        ShapeRange(min=(1, 8000), opt=(8, 16000), max=(32, 32000)),
        ShapeRange(min=(1, 32000), opt=(8, 80000), max=(32, 160000)),
    ]
    assert [p.inputs["audio_lengths"] for p in profiles] == [ShapeRange(min=(1,), opt=(8,), max=(32,))] * 2


def test_minimum_is_what_the_graph_takes() -> None:
    (profile,) = make_profiles(INPUTS, DEFAULT_BATCH, [Range(0, 1, 2)], METADATA)
    assert profile.inputs["audio"].min == (1, 320)
    make_profiles(INPUTS, DEFAULT_BATCH, [Range(0.02, 0.02, 0.02)], METADATA)
    with pytest.raises(ConfigError, match=r"--seconds 0:0.01:1 is too short: the model needs at least 0.02 s"):
        make_profiles(INPUTS, DEFAULT_BATCH, [Range(0, 0.01, 1)], METADATA)


def test_defaults_leave_no_length_out() -> None:
    spans = [
        (p.inputs["audio"].min[1], p.inputs["audio"].max[1])
        for p in make_profiles(INPUTS, DEFAULT_BATCH, DEFAULT_SECONDS, METADATA)
    ]
    assert spans[0][0] == METADATA.min_samples
    assert spans[-1][1] == 35 * 16000
    assert all(after[0] <= before[1] + 1 for before, after in pairwise(spans))


def test_fixed_dimensions_stay() -> None:
    """A stream's chunk has one length, so seconds do not matter and one profile is enough."""
    stream = {"audio": (-1, 3200), "audio_lengths": (-1,), "state": (-1, 77)}
    (profile,) = make_profiles(stream, parse_batch("1:2:4"), DEFAULT_SECONDS, METADATA)
    assert profile.inputs == {
        "audio": ShapeRange(min=(1, 3200), opt=(2, 3200), max=(4, 3200)),
        "audio_lengths": ShapeRange(min=(1,), opt=(2,), max=(4,)),
        "state": ShapeRange(min=(1, 77), opt=(2, 77), max=(4, 77)),
    }


@pytest.mark.parametrize("parse", [parse_batch, parse_seconds])
@pytest.mark.parametrize("largest", ["10000000000", "1e19", "1e300"])
def test_sizes_that_overflow_the_builder(parse, largest):
    with pytest.raises(ConfigError, match="which no engine serves"):
        parse(f"1:1:{largest}")
