"""A long recording in pieces cut at silences, so that a model which needs whole utterances can hear hours.

    speech  . . # # # # . # # . . . . . # # # # # # # . . . .        #: the voice-activity detector hears speech
    pieces    [--------------- 1 -------------][---- 2 ----]

A piece ends in a pause once it is long enough, at once in a long pause, whose middle is left out, and at the cap in
the longest pause of its later half, however short. Every sample of speech is in exactly one piece.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soxr
import webrtcvad

from ds2_deploy.audio.load import Samples

MAX_SEGMENT_S = 60.0
"""The cap; shorter recordings are left whole."""
ENOUGH_S = 10.0
"""From here on a pause ends a piece."""
PAUSE_S = 0.5
LONG_PAUSE_S = 2.0
"""Ends any piece."""
MARGIN_S = 0.3
"""Of silence kept around speech where the rest of a long pause is left out."""
FRAME_MS = 30
"""What WebRTC's detector judges at a time; it knows 10, 20 and 30 ms."""
RATES = (8000, 16000, 32000, 48000)
"""Sample rates it knows; others are resampled to 16000 for it."""
MODE = 3
"""Its strictest: the others hear speech in the pauses of clean recordings."""
SECTION_FRAMES = 333
"""About ten seconds, within which a speaker's level is taken to be one."""
LOUD_SHARE, LOUD = 0.999, 0.3
"""The level that this share of a section's samples stays below becomes LOUD; a click is not in it."""
FAINT, FAINTER = 1e-3, 0.2
"""A section fainter than that, or than that share of the loudest one so far, is not made any louder: it may be silence,
or what is left of a room's noise in a long pause."""
FORGOTTEN = 0.9
"""Of the loudest section's level from one to the next, a decibel: after a blow on the microphone all is faint."""


class Segment(NamedTuple):
    """A piece of a recording."""

    start: int
    """Its place in the recording, in samples."""
    samples: Samples
    """(S,)"""


def segments(blocks: Iterable[Samples], sample_rate: int, max_s: float = MAX_SEGMENT_S) -> Iterator[Segment]:
    """Pieces of at most `max_s` seconds, in order, of a recording in blocks (S_i,); none of silence alone."""
    cutter = _Cutter(max_s)
    for samples, speech in judged(blocks, sample_rate):
        cutter.append(samples, speech)
        if cut := cutter.cut():
            yield from cutter.split(*cut)
    if cutter.has_speech:
        yield cutter.rest()


class _Cutter:
    """Frames not yet given out, each with the detector's judgement."""

    def __init__(self, max_s: float) -> None:
        self._margin, self._pause, self._long_pause, self._enough = (
            max(round(s * 1000 / FRAME_MS), 1) for s in (MARGIN_S, PAUSE_S, LONG_PAUSE_S, min(ENOUGH_S, max_s / 2))
        )
        self._cap = max(int(max_s * 1000 / FRAME_MS), 2)  # frames
        self._margin = min(self._margin, self._cap // 2)
        self._start = 0  # of the first frame kept, in samples
        self._frames: list[Samples] = []
        self._speech: list[bool] = []
        self._silent = 0  # frames at the end
        self.has_speech = False

    def append(self, samples: Samples, speech: bool) -> None:
        self._frames.append(samples)
        self._speech.append(speech)
        self._silent = 0 if speech else self._silent + 1
        self.has_speech |= speech
        if not self.has_speech and len(self._frames) > self._margin:
            self._drop(1)

    def cut(self) -> tuple[int, int] | None:
        """End of the piece that is complete and start of the next one, in frames; None while it goes on."""
        count = len(self._frames)
        if not self.has_speech:
            return None
        if self._silent >= self._long_pause:
            return count - self._silent + self._margin, count - self._margin
        if self._silent >= self._pause and count >= self._enough:
            middle = count - self._silent // 2
            return middle, middle
        if count >= self._cap:
            middle = self._longest_pause()
            return middle, middle
        return None

    def _longest_pause(self) -> int:
        """The middle of the longest pause in the later half; the end where there is none."""
        half = len(self._speech) // 2
        marks = np.flatnonzero([True, *self._speech[half:], True])  # a pause lies between two of them
        gaps = np.diff(marks) - 1
        longest = int(gaps.argmax())
        if gaps[longest] == 0:
            return len(self._speech)
        return half + int(marks[longest]) + (int(gaps[longest]) + 1) // 2

    def split(self, end: int, start: int) -> Iterator[Segment]:
        """The piece up to frame `end`; what begins at frame `start` is kept."""
        if any(self._speech[:end]):
            yield Segment(self._start, np.concatenate(self._frames[:end]))
        self._drop(start)

    def rest(self) -> Segment:
        return Segment(self._start, np.concatenate(self._frames))

    def _drop(self, count: int) -> None:
        self._start += sum(map(len, self._frames[:count]))
        del self._frames[:count], self._speech[:count]
        self._silent = min(self._silent, len(self._frames))
        self.has_speech = any(self._speech)


def judged(blocks: Iterable[Samples], sample_rate: int) -> Iterator[tuple[Samples, bool]]:
    """Frames of FRAME_MS (the last may be shorter) and whether each holds speech.

    The detector judges absolute levels, so it hears each section as loud as speech usually is.
    """
    frame = sample_rate * FRAME_MS // 1000
    detector, loudest = webrtcvad.Vad(MODE), FAINT / FAINTER
    for section in _sections(blocks, frame * SECTION_FRAMES):
        loud = float(np.quantile(np.abs(section), LOUD_SHARE)) if len(section) else 0.0
        loudest = max(loud, FORGOTTEN * loudest)
        gain = np.float32(LOUD / max(loud, FAINTER * loudest))
        for start in range(0, len(section), frame):
            samples = section[start : start + frame]
            heard = np.pad(samples, (0, frame - len(samples)))
            yield samples, _is_speech(detector, gain * heard, sample_rate)


def _sections(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples in pieces of `size`, the last one shorter."""
    waiting: list[Samples] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(waiting)
            whole = count // size * size
            yield from joined[:whole].reshape(-1, size)
            waiting, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)


def _is_speech(detector: "webrtcvad.Vad", samples: Samples, sample_rate: int) -> bool:
    if sample_rate not in RATES:
        samples, sample_rate = soxr.resample(samples, sample_rate, 16000), 16000
        samples = np.resize(samples, 16 * FRAME_MS)
    pcm = (samples.clip(-1, 1) * 32767).astype("<i2")
    return bool(detector.is_speech(pcm.tobytes(), sample_rate))
