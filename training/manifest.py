"""Manifests: JSON lines of utterances, the format NeMo users know. No torch."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.errors import AlphabetError, ManifestError, PronunciationError
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import normalize


class Utterance(NamedTuple):
    path: Path
    duration_s: float
    text: str
    speaker: str = ""


def read_manifest(path: Path) -> list[Utterance]:
    """Utterances of a manifest, paths resolved; ManifestError names the file, the line and the fault."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ManifestError(f"Cannot read the manifest {path}: {reason}.") from error
    utterances = [_parse(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not utterances:
        raise ManifestError(f"The manifest {path} holds no utterance.")
    return utterances


def _parse(line: str, manifest: Path, number: int) -> Utterance:
    where = f"{manifest}, line {number}"
    try:
        entry = json.loads(line)
        path, duration_s, text = entry["audio_filepath"], float(entry["duration"]), entry["text"]
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where} is not JSON: {error.msg}.") from error
    except KeyError as error:
        raise ManifestError(f"{where} has no field {error}: a line needs audio_filepath, duration and text.") from error
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where} is not an object with audio_filepath, duration (seconds) and text.") from error
    if not (isinstance(path, str) and isinstance(text, str) and 0 <= duration_s < math.inf):
        raise ManifestError(f"{where}: audio_filepath and text must be strings and duration at least 0.")
    return Utterance((manifest.parent / path).absolute(), duration_s, text, str(entry.get("speaker", "")))


def spelled(utterances: list[Utterance], language: str) -> tuple[list[Utterance], list[PronunciationError]]:
    """With every text in the language's spelling, without those that have none; apart, an error for each of these."""
    result: list[Utterance] = []
    failures: list[PronunciationError] = []
    for utterance in utterances:
        try:
            result.append(utterance._replace(text=normalize(utterance.text, language)))
        except PronunciationError as error:
            failures.append(error)
    if not result:
        raise ManifestError(f"No transcript can be spelled in {language!r}; the first: {failures[0]}")
    return result, failures


def check_labels(utterances: list[Utterance], alphabet: Alphabet) -> None:
    """AlphabetError counts what the alphabet cannot write."""
    faults = Counter(token for u in utterances for token in alphabet.missing(u.text))
    if faults:
        listed = ", ".join(f"{token!r} in {count}" for token, count in faults.most_common(8))
        raise AlphabetError(
            f"The alphabet does not cover the transcripts: no label for {listed} of {len(utterances)} utterances. "
            "Add the characters to the recipe's alphabet, or clean the texts."
        )


def fits_ctc(utterance: Utterance, feature: FeatureConfig, model: ModelConfig, alphabet: Alphabet) -> bool:
    """Whether CTC can align the text: a frame per label and one more between equal neighbours."""
    labels = alphabet.tokens(utterance.text)
    needed = len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
    frames = model.output_frames(feature.frames(round(utterance.duration_s * feature.sample_rate)))
    return frames >= max(needed, 1)
