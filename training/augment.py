"""Variation of the training recordings: speed, room, noise, level, and what SpecAugment hides.

Everything drawn for an utterance follows from (seed, epoch, utterance), whichever worker prepares it.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ds2_deploy.audio.find import recording_files
from ds2_deploy.audio.load import UNKNOWN_FRAMES, Channel, Samples, load_audio
from ds2_deploy.errors import AudioError, ConfigError
from ds2_deploy.manifest import read_manifest
from training.draws import Draw, UtteranceKey, generator, uniform_rows
from training.recipe import AugmentConfig

SOUND_M_S = 343.0
EARLY_S = 0.05
"""Reflections until here come one by one, later ones as noise that dies away."""
TELEPHONE_RATE = 8000
HISS_DB = (-90.0, -50.0)
"""Of a full-scale square wave: what a recorder's silence holds, where it holds anything."""
QUIET_S = 0.02
"""Length of the stretches of a recording of which the quietest says how loud its pauses are."""
SILENT = 1e-20
"""Power below which a file holds nothing: far below the least bit of 24-bit audio, of 1e-14."""


class Varied(NamedTuple):
    """A training recording for one epoch."""

    audio: Samples
    """(S,)"""
    time_masks: npt.NDArray[np.int64]
    """(views * masks, 2) first and end feature frame of what is hidden, one view after the other."""
    frequency_masks: npt.NDArray[np.int64]
    """(views * masks, 2) first and end bin."""
    noise_seed: int
    """Of the noise on the features; 0: none."""


class Augmenter:
    """Applies a recipe's variations; knows its noise files and rooms."""

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        self.config, self.rate = config, sample_rate
        self.noises = audio_of(config.noise, "augment.noise") if config.noise_probability else ()
        measured = config.reverb_probability and config.reverb != "simulated"
        self.rooms = audio_of(config.reverb, "augment.reverb") if measured else ()

    def vary(self, audio: Samples, key: UtteranceKey, bins: int, frames_of: Callable[[int], int]) -> Varied:
        """`audio` (S,) as (seed, epoch, utterance) `key` wants it; `frames_of` counts the feature frames of samples."""
        config, rng = self.config, generator(*key, of=Draw.SPEED)
        other = generator(*key, of=Draw.SOUND)  # its own draws: a recipe without them stays as it was
        audio = change_speed(audio, float(rng.choice(config.speeds)))
        audio = in_silence(audio, silence_s(config, key), self.rate, other)
        frames = frames_of(len(audio))
        widest = min(config.time_mask_frames, int(frames * config.time_mask_share))
        time = draw_masks(rng, config.views * config.time_masks, frames, widest)
        frequency = draw_masks(rng, config.views * config.frequency_masks, bins, config.frequency_mask_bins)
        gain_db = rng.uniform(*config.gain_db)
        audio = self.in_a_room(audio, other)
        audio = self.in_noise(audio, other)
        if config.telephone_probability and other.uniform() < config.telephone_probability:
            audio = by_telephone(audio, self.rate)
        noisy = config.feature_noise != "none" and other.uniform() < config.feature_noise_probability
        seed = int(other.integers(1, 2**62)) if noisy else 0
        return Varied(change_level(audio, gain_db), time, frequency, seed)

    def in_a_room(self, audio: Samples, rng: np.random.Generator) -> Samples:
        """With the reverberation of a drawn room, as loud as before and not later."""
        if rng.uniform() >= self.config.reverb_probability or not audio.any():
            return audio
        if self.rooms:
            response = measured_room(self.rooms[rng.integers(len(self.rooms))], self.rate)
        else:
            response = simulated_room(rng, rng.uniform(*self.config.reverb_s), self.rate)
        return reverberant(audio, response)

    def in_noise(self, audio: Samples, rng: np.random.Generator) -> Samples:
        """With a stretch of a drawn noise file at a drawn ratio of powers."""
        if rng.uniform() >= self.config.noise_probability:
            return audio
        path = self.noises[rng.integers(len(self.noises))]
        snr_db = rng.uniform(*self.config.snr_db)
        return mixed(audio, stretch(path, len(audio), self.rate, rng), snr_db)


def audio_of(source: str, field: str) -> tuple[Path, ...]:
    """The recordings of a folder, searched to its depths, or of a manifest; ConfigError names the recipe's `field`."""
    path = Path(source)
    if path.suffix == ".jsonl":
        return tuple(utterance.path for utterance in read_manifest(path))
    if not path.is_dir():
        cure = ""
        if field == "augment.noise":
            cure = (
                "; --set augment.noise=FOLDER names yours, --set augment.noise_probability=0 does without, and python "
                "-m training.models prepare makes runs/models/noise"
            )
        raise ConfigError(f"{field} is {source!r}: it must be a folder of recordings or a manifest{cure}.")
    try:
        return tuple(file.absolute() for file in recording_files(path))
    except AudioError as error:
        raise ConfigError(f"{field} is {source!r}: {error}") from error


def change_speed(audio: Samples, factor: float) -> Samples:
    """`factor` 1.1 is a tenth faster and higher: audio (S,) -> (S / factor,)."""
    if factor == 1.0 or len(audio) == 0:
        return audio
    resampled: Samples = soxr.resample(audio, factor, 1.0)
    return resampled


def by_telephone(audio: Samples, rate: int) -> Samples:
    """Audio (S,) as it comes back from TELEPHONE_RATE: as long as before, without its upper frequencies."""
    if rate <= TELEPHONE_RATE or len(audio) == 0:
        return audio
    narrow = soxr.resample(soxr.resample(audio, rate, TELEPHONE_RATE), TELEPHONE_RATE, rate)
    result: Samples = np.pad(narrow, (0, max(len(audio) - len(narrow), 0)))[: len(audio)]
    return result


def silences_s(config: AugmentConfig, key: UtteranceKey, count: int) -> npt.NDArray[np.float64]:
    """(count, 2) seconds of silence before and after the utterance of `key` and those after it."""
    if not config.silence_probability:
        return np.zeros((count, 2))
    drawn = uniform_rows(key, Draw.SILENCE, count, 3)
    return np.where(drawn[:, :1] < config.silence_probability, between(config.silence_s, drawn[:, 1:]), 0.0)


def silence_s(config: AugmentConfig, key: UtteranceKey) -> tuple[float, float]:
    """Seconds of silence before and after one utterance."""
    before, after = silences_s(config, key, 1)[0].tolist()
    return before, after


def between(ends: tuple[float, float], drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), spread over the range between two `ends`."""
    return ends[0] + (ends[1] - ends[0]) * drawn


class Followers(NamedTuple):
    """What comes after an utterance in the same recording."""

    indices: tuple[int, ...]
    """Of the utterances, in their order."""
    pauses_s: tuple[float, ...]
    """Before each of them."""


def many_followers(
    config: AugmentConfig, key: UtteranceKey, count: int, utterances: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(count, joined) which of so many utterances come after the one of `key` and those after it, -1 for none; and the
    pauses in seconds before each."""
    if not config.joined_probability:
        return np.full((count, 0), -1), np.zeros((count, 0))
    most = config.joined
    drawn = uniform_rows(key, Draw.FOLLOWERS, count, 2 + 2 * most)
    number = np.where(drawn[:, 0] < config.joined_probability, 1 + (most * drawn[:, 1]).astype(np.int64), 0)
    there = np.arange(most) < number[:, None]
    indices = (utterances * drawn[:, 2 : 2 + most]).astype(np.int64)
    return np.where(there, indices, -1), np.where(there, between(config.pause_s, drawn[:, 2 + most :]), 0.0)


def followers(config: AugmentConfig, key: UtteranceKey, utterances: int) -> Followers:
    """What one utterance wants after it."""
    indices, pauses_s = many_followers(config, key, 1, utterances)
    there = indices >= 0
    return Followers(tuple(indices[there].tolist()), tuple(pauses_s[there].tolist()))


def one_after_the_other(
    recordings: Sequence[Samples], pauses_s: Sequence[float], rate: int, key: UtteranceKey
) -> Samples:
    """Recordings (S,) in one, with a pause before each but the first: noise as loud as the quietest of the one before
    it, drawn for (seed, epoch, utterance) `key`."""
    if len(recordings) == 1:
        return recordings[0]
    parts, rng = [recordings[0]], generator(*key, of=Draw.PAUSES)
    for before, seconds, recording in zip(recordings, pauses_s, recordings[1:], strict=False):
        level = math.sqrt(quietest(before, rate))
        parts += [(level * rng.standard_normal(int(seconds * rate))).astype(np.float32), recording]
    return np.concatenate(parts)


def quietest(audio: Samples, rate: int) -> float:
    """Power of the quietest stretch of QUIET_S in a recording (S,); none of nothing."""
    size = int(QUIET_S * rate)
    if len(audio) < size:
        return power(audio)
    stretches = audio[: len(audio) // size * size].reshape(-1, size)
    return float(np.square(stretches, dtype=np.float64).mean(axis=1).min())


def in_silence(audio: Samples, seconds: tuple[float, float], rate: int, rng: np.random.Generator) -> Samples:
    """Audio (S,) with so many seconds before and after: of zeros or, as often, of a hiss of a drawn level."""
    if seconds == (0.0, 0.0):
        return audio
    level = rng.integers(2) * 10 ** (rng.uniform(*HISS_DB) / 20)
    before, after = (level * rng.standard_normal(int(length * rate)) for length in seconds)
    result: Samples = np.concatenate([before, audio, after]).astype(np.float32)
    return result


def change_level(audio: Samples, gain_db: float) -> Samples:
    """Audio (S,), louder by `gain_db` decibels."""
    return audio * np.float32(10 ** (gain_db / 20)) if gain_db else audio


def draw_masks(rng: np.random.Generator, count: int, size: int, widest: int) -> npt.NDArray[np.int64]:
    """(count, 2) first and end positions within `size`; widths are uniform in 0..widest (SpecAugment)."""
    widths = rng.integers(0, min(widest, size) + 1, count)
    starts = rng.integers(0, size - widths + 1)
    masks: npt.NDArray[np.int64] = np.stack([starts, starts + widths], axis=1).astype(np.int64)
    return masks


def stretch(path: Path, samples: int, rate: int, rng: np.random.Generator) -> Samples:
    """(samples,) of a recording from a drawn place on, from its beginning again where it ends."""
    try:
        with soundfile.SoundFile(path) as file:
            wanted = math.ceil(samples * file.samplerate / rate)
            found: Samples
            if file.frames >= UNKNOWN_FRAMES:  # of one written to a pipe: nobody can look for a place in it
                found = load_audio(path, rate)
                found = found[int(rng.integers(max(len(found) - samples, 0) + 1)) :]
            else:
                file.seek(int(rng.integers(max(file.frames - wanted, 0) + 1)))
                found = file.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
                found = soxr.resample(found, file.samplerate, rate) if file.samplerate != rate else found
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"Cannot read the noise {path}: {error}.") from error
    if not np.isfinite(found).all():
        raise AudioError(f"Cannot use the noise {path}: it holds samples that are not finite, so take it out.")
    return np.resize(found, samples) if len(found) else np.zeros(samples, np.float32)


def mixed(audio: Samples, noise: Samples, snr_db: float) -> Samples:
    """`audio` (S,) plus `noise` (S,), scaled so that their powers are `snr_db` apart; silence of either stays alone."""
    speech, disturbance = power(audio), power(noise)
    if not speech or disturbance < SILENT:
        return audio
    return audio + noise * np.float32(math.sqrt(speech / disturbance * 10 ** (-snr_db / 10)))


def power(samples: npt.NDArray[np.floating[Any]]) -> float:
    """Mean square of (S,), in float64; none of nothing."""
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def measured_room(path: Path, rate: int) -> Samples:
    """The response of a room from a file, from its direct sound on; AudioError where it holds no sound.

    Of several microphones the first: their mean would be the response of no place in the room.
    """
    response = load_audio(Channel(path, 0), rate)
    if power(response) < SILENT:
        raise AudioError(f"Cannot use the impulse response {path}: it is silent or empty, so take it out.")
    return response[np.abs(response).argmax() :]


def reverberant(audio: Samples, response: Samples) -> Samples:
    """`audio` (S,) convolved with a room's `response`, cut to its length and brought back to its power."""
    size = 1 << (len(audio) + len(response) - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)[: len(audio)]
    result: Samples = (wet * math.sqrt(power(audio) / max(power(wet), 1e-30))).astype(np.float32)
    return result


def simulated_room(rng: np.random.Generator, decay_s: float, rate: int) -> Samples:
    """The response of a drawn shoebox room that takes `decay_s` to fall by 60 dB, from its direct sound on.

    Image sources (Allen and Berkley 1979) for EARLY_S, then Gaussian noise with the power that image sources have on
    average: with N = 4/3 pi (c t)^3 / V of them until t, each 1 / (4 pi c t), it is c / (4 pi V) a second.
    """
    size = rng.uniform((3.0, 3.0, 2.4), (9.0, 7.0, 3.5))  # metres
    source, ear = (rng.uniform(0.5, size - 0.5) for _ in range(2))
    while np.linalg.norm(source - ear) < 0.3:
        ear = rng.uniform(0.5, size - 0.5)
    distances, bounces = image_sources(size, source, ear, SOUND_M_S * EARLY_S + float(np.linalg.norm(source - ear)))
    times = distances / SOUND_M_S
    sign = np.where(bounces, rng.choice([-1.0, 1.0], len(bounces)), 1.0)  # pulses of one sign would add up to a hum
    fall = np.where(bounces, 10 ** (-3 * times / decay_s), 1.0)  # of the amplitude
    first = int(times.min() * rate)
    response = np.zeros(first + int(max(decay_s, EARLY_S) * rate) + 2)
    np.add.at(response, (times * rate).astype(int), sign * fall / (4 * np.pi * distances))
    begin = first + int(EARLY_S * rate)
    late = np.arange(begin, len(response)) / rate
    density = SOUND_M_S / (4 * np.pi * float(np.prod(size))) / rate
    response[begin:] += rng.standard_normal(len(late)) * math.sqrt(density) * 10 ** (-3 * late / decay_s)
    result: Samples = response[first:].astype(np.float32)
    return result


def image_sources(
    size: npt.NDArray[np.float64], source: npt.NDArray[np.float64], ear: npt.NDArray[np.float64], within_m: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Distances from `ear` (3,) of the images of `source` (3,) in a room of `size` (3,), and their reflections."""
    axes, counts = [], []
    for length, at, heard in zip(size, source, ear, strict=True):
        n = np.arange(-math.ceil(within_m / (2 * length)) - 1, math.ceil(within_m / (2 * length)) + 2)
        axes.append(np.concatenate([2 * n * length + at, 2 * n * length - at]) - heard)
        counts.append(np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)]))
    squares = (a**2 for a in axes)
    distances = np.sqrt(_outer_sum(*squares))
    near = distances <= within_m
    return distances[near], _outer_sum(*counts)[near]


def _outer_sum(x: npt.NDArray[Any], y: npt.NDArray[Any], z: npt.NDArray[Any]) -> npt.NDArray[Any]:
    total: npt.NDArray[Any] = x[:, None, None] + y[None, :, None] + z[None, None, :]
    return total
