"""Stretches of longer recordings, written as files of their own."""

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from ds2_deploy.audio.load import audio_duration_s
from ds2_deploy.errors import AudioError, ConfigError, OutputError, SilentAudioError, reason_of
from ds2_deploy.files import atomic_path
from training.corpora.entry import Part

FLAC_CHANNELS = 8
STEM = 50
"""Letters of a recording's name that its parts begin with: a file's name may have 255 bytes, and a letter four."""


def write_part(source: str, part: Part, folder: Path | None) -> tuple[Path, float]:
    """The stretch as 16-bit FLAC at the recording's own rate, and its seconds; ConfigError without a folder for it."""
    if folder is None:
        raise ConfigError(f"{source} is cut into parts: --audio-dir says where to write these as files.")
    recording_s = audio_duration_s(source)  # says in a sentence what cannot be opened
    if not 0 <= part.start_s <= part.end_s <= recording_s + 1e-3:
        raise AudioError(f"{source} lasts {recording_s:.3f} s: no cut from {part.start_s:.3f} to {part.end_s:.3f} s.")
    path = folder / f"{part_name(source, part)}.flac"
    try:
        with soundfile.SoundFile(os.fsencode(source)) as file:
            file.seek(round(part.start_s * file.samplerate))
            # Not as integers: libsndfile does not scale floats to them, and lets loud Vorbis and Opus overflow.
            samples = file.read(round(part.duration_s * file.samplerate), dtype="float32", always_2d=True)  # (S, C)
            rate = file.samplerate
    except soundfile.SoundFileError as error:
        raise AudioError(f"Cannot decode {source} up to {part.end_s:.3f} s: it is damaged or cut off.") from error
    if part.channel is not None:
        if not part.channel < samples.shape[1]:
            raise AudioError(f"{source} has no channel {part.channel}: it has {samples.shape[1]}, counted from 0.")
        samples = samples[:, part.channel]
    if not len(samples):
        raise AudioError(f"Cannot decode {source} from {part.start_s:.3f} s on: nothing is left of it there.")
    if not np.isfinite(samples).all():
        where = f"from {part.start_s:.3f} to {part.end_s:.3f} s"
        raise AudioError(f"{source} holds samples that are NaN or infinite {where}: record or convert again.")
    if not samples.any():
        raise SilentAudioError(f"{source} holds digital silence from {part.start_s:.3f} to {part.end_s:.3f} s.")
    if samples.shape[-1] > FLAC_CHANNELS and samples.ndim > 1:
        raise AudioError(f"{source} has {samples.shape[-1]} channels, and a FLAC file holds {FLAC_CHANNELS}.")
    write_flac(path, samples, rate)
    return path, len(samples) / rate


def part_name(source: str, part: Part) -> str:
    """Its recording's name, the millisecond it begins at, and a hash of what it is: in one folder, whatever is cut into
    it and how often, a part is always the same file, and another one is another file. The hash is of the recording's
    path, too: where that moves, the names change."""
    content = f"{source}\0{part.start_s!r}\0{part.duration_s!r}\0{part.channel}"
    digest = hashlib.blake2b(content.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    return f"{Path(source).stem[:STEM]}-{round(1000 * part.start_s):07d}-{digest}"


def write_flac(path: Path, samples: npt.NDArray[np.float32], rate: int) -> None:
    """(S,) or (S, C) in [-1, 1], what is beyond cut off, as 16-bit FLAC: whole, or OutputError and none.

    Of 16-bit recordings it is what they were. libsndfile does not say where a disk was full at the very end.
    """
    integers = np.rint(samples * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    with atomic_path(path) as temporary:
        try:
            soundfile.write(temporary, integers, rate, format="FLAC", subtype="PCM_16")
            with soundfile.SoundFile(temporary) as file:
                file.seek(max(len(integers) - 1, 0))
                written = file.frames == len(integers) and len(file.read(1)) == min(len(integers), 1)
        except soundfile.SoundFileError as error:
            raise OutputError(f"Cannot write {path}: {reason_of(error)}; the disk may be full.") from error
        if not written:
            raise OutputError(f"Cannot write {path}: it came out shorter than it is, as on a full disk.")
