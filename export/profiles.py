"""Optimisation profiles: which shapes an engine accepts, from batch sizes and seconds of audio.

TensorRT tunes its kernels for one shape (`opt`) per profile. Several narrow buckets of audio length beat one
wide profile, so that a short command does not run the kernels chosen for a long dictation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ds2_deploy.errors import ConfigError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.runtime.engine_info import OptimizationProfile, Shape, ShapeRange

DYNAMIC = -1


class Range(NamedTuple):
    """Smallest, most likely and largest value."""

    min: float
    opt: float
    max: float

    def __str__(self) -> str:
        return ":".join(f"{value:g}" for value in self)


LARGEST = {"--batch": 65_536, "--seconds": 86_400}
# Recordings to run at once.
DEFAULT_BATCH = Range(1, 4, 16)
# Streams to step at once: ds2_deploy.streaming.dispatcher.MAX_BATCH at most.
DEFAULT_STREAMS = Range(1, 8, 32)
# Commands, utterances, long utterances: 35 s is where LibriSpeech's longest ends. 0 is the model's own minimum.
DEFAULT_SECONDS = (Range(0, 3, 5), Range(5, 10, 15), Range(15, 25, 35))


def parse_batch(text: str) -> Range:
    """`MIN:OPT:MAX` recordings, each at least 1.

    >>> str(parse_batch("1:4:16"))
    '1:4:16'
    """
    batch = _parse(text, "--batch")
    if batch.min < 1 or any(value != int(value) for value in batch):
        raise ConfigError(f"--batch {text} does not count recordings: give whole numbers from 1.")
    return batch


def parse_seconds(text: str) -> Range:
    """`MIN:OPT:MAX` seconds of audio."""
    return _parse(text, "--seconds")


def _parse(text: str, option: str) -> Range:
    try:
        values = Range(*map(float, text.split(":")))
    except (ValueError, TypeError):
        raise ConfigError(f"{option} {text} is not MIN:OPT:MAX: give three numbers, such as 1:4:16.") from None
    if not 0 <= values.min <= values.opt <= values.max < float("inf"):
        raise ConfigError(f"{option} {text} is not in order: MIN, OPT and MAX must not decrease.")
    if values.max > LARGEST[option]:
        raise ConfigError(f"{option} {text} goes beyond {LARGEST[option]}, which no engine serves.")
    return values


def make_profiles(
    inputs: Mapping[str, Shape], batch: Range, seconds: Sequence[Range], metadata: ModelMetadata
) -> tuple[OptimizationProfile, ...]:
    """One profile per range of seconds, all with the same batch; one alone where no length varies (a stream's chunk).

    `inputs` are the graph's input shapes: the first dimension is the batch, any other dynamic one is samples.
    """
    varies = any(DYNAMIC in shape[1:] for shape in inputs.values())
    buckets = [_samples(bucket, metadata) for bucket in seconds] if varies else [Range(0, 0, 0)]
    return tuple(
        OptimizationProfile(inputs={name: _shapes(shape, batch, samples) for name, shape in inputs.items()})
        for samples in buckets
    )


def _samples(seconds: Range, metadata: ModelMetadata) -> Range:
    """Seconds to samples; the minimum is raised to the shortest input the graph accepts."""
    rate, least = metadata.feature.sample_rate, metadata.min_samples
    small, likely, large = (round(value * rate) for value in seconds)
    if likely < least:
        raise ConfigError(f"--seconds {seconds} is too short: the model needs at least {least / rate:g} s of audio.")
    return Range(max(small, least), likely, large)


def _shapes(shape: Shape, batch: Range, samples: Range) -> ShapeRange:
    """The shape with its dynamic dimensions filled in, three times."""
    small, likely, large = (
        tuple(fixed if fixed != DYNAMIC else int(many if axis == 0 else length) for axis, fixed in enumerate(shape))
        for many, length in zip(batch, samples, strict=True)
    )
    return ShapeRange(min=small, opt=likely, max=large)
