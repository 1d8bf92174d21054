"""New utterances out of the words of old ones: cut between words, put together in another order, speaker by speaker.

A network that hears a thousand utterances again and again learns their texts. Here it hears the same voices say what
nobody said, so that it has to listen. The words are found with a trained model: CTC's best path through the
transcript (Graves et al. 2006, section 4), cut where it is quietest between two words.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.decoding.alignment import best_path
from ds2_deploy.errors import AlignmentError
from ds2_deploy.manifest import Utterance, read_manifest
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import load_model
from ds2_deploy.runtime.protocol import Backend, run_alone
from ds2_deploy.runtime.torch_backend import TorchBackend
from training.corpora.build import write_manifest
from training.corpora.check import ManifestLine

RUN = (0.5, 0.3, 0.2)
"""How often one, two and three words stay together as they were said."""
PIECES = (1, 6)
"""Fewest and most such runs in an utterance."""
FADE_S = 0.005
QUIET_S = 0.02
"""Length of the stretches whose loudness says where to cut."""
SHORTEST_S = 0.16
"""Of a word, where there is room: the silence before a plosive is not the end of its word."""
MARGIN_S = 0.25
"""Kept before the first and after the last word."""


class Words(NamedTuple):
    """A recording cut into its words."""

    words: list[str]
    pieces: list[Samples]
    """(S,) each; together they are the recording, without long silence around it."""


def cuts(audio: Samples, rate: int, spans: Sequence[tuple[float, float]]) -> list[int]:
    """Samples at which a recording is cut into words, given each word's first and last second: one more than words."""
    size = int(QUIET_S * rate)
    loudness = np.convolve(np.square(audio, dtype=np.float64), np.ones(size) / size, "same")
    places = [max(int((spans[0][0] - MARGIN_S) * rate), 0)]
    for (_, end), (start, _) in pairwise(spans):
        low, high = max(int(end * rate), places[-1] + int(SHORTEST_S * rate)), int(start * rate)
        low = min(low, max(high - 1, places[-1]))
        high = max(high, low + 1)
        places.append(low + int(loudness[low:high].argmin()))
    return [*places, min(int((spans[-1][1] + MARGIN_S) * rate), len(audio))]


def cut_into_words(
    backend: Backend, metadata: ModelMetadata, utterances: Iterable[Utterance]
) -> Iterator[tuple[Utterance, Words]]:
    """Each utterance with its recording in pieces; a single word needs no model. Unalignable ones are left out."""
    rate, frame_s = metadata.feature.sample_rate, metadata.frame_s
    for utterance in utterances:
        audio, words = load_audio(utterance.path, rate), utterance.text.split()
        if len(words) < 2:
            yield utterance, Words(words, [audio] * len(words))
            continue
        heard = run_alone(backend, audio)
        try:
            spans = best_path(heard, metadata.alphabet.encode(" ".join(words)))
        except AlignmentError:
            continue
        ends = np.cumsum([len(word) + 1 for word in words]) - 1  # where the space after each word stands
        starts = [0, *(ends[:-1] + 1)]
        seconds = [
            (spans[start][0] * frame_s, (spans[end - 1][1] + 1) * frame_s)
            for start, end in zip(starts, ends, strict=True)
        ]
        places = cuts(audio, rate, seconds)
        yield utterance, Words(words, [audio[a:b] for a, b in pairwise(places)])


def joined(pieces: Sequence[Samples], rate: int) -> Samples:
    """Pieces one after the other, faded into each other."""
    fade = int(FADE_S * rate)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    result = pieces[0].copy()
    for piece in pieces[1:]:
        if min(len(result), len(piece)) < fade:
            result = np.concatenate([result, piece])
            continue
        result[-fade:] = result[-fade:] * (1 - ramp) + piece[:fade] * ramp
        result = np.concatenate([result, piece[fade:]])
    return result


def recombined(speech: Sequence[Words], draw: random.Random, rate: int) -> tuple[str, Samples]:
    """Text and recording of an utterance that one speaker did not say."""
    words: list[str] = []
    pieces: list[Samples] = []
    for _ in range(draw.randint(*PIECES)):
        source = draw.choice(speech)
        size = min(draw.choices((1, 2, 3), RUN)[0], len(source.words))
        start = draw.randint(0, len(source.words) - size)
        words += source.words[start : start + size]
        pieces += [joined(source.pieces[start : start + size], rate)]
    return " ".join(words), joined(pieces, rate)


def write_spliced(folder: Path, manifests: Sequence[Path], model: Path, times: int, seed: int) -> None:
    """`folder`/audio and `folder`/manifest.jsonl: `times` as many utterances as `manifests` hold.

    `model` is the checkpoint or the model folder that aligns them.
    """
    audio = folder / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    network = load_model(model)
    metadata, rate = network.metadata, network.metadata.feature.sample_rate
    known = [utterance for manifest in manifests for utterance in read_manifest(manifest)]
    speakers: dict[str, list[Words]] = defaultdict(list)
    for utterance, words in cut_into_words(TorchBackend.of(network), metadata, known):
        if words.words:
            speakers[utterance.speaker].append(words)
    draw, made = random.Random(seed), []
    for speaker, speech in sorted(speakers.items()):
        for number in range(times * len(speech)):
            text, samples = recombined(speech, draw, rate)
            path, seconds = audio / f"{speaker}-{number:04}.flac", round(len(samples) / rate, 3)
            soundfile.write(path, samples, rate)
            made.append(ManifestLine(audio=str(path.absolute()), duration_s=seconds, text=text, speaker=speaker))
    write_manifest(folder / "manifest.jsonl", made)
