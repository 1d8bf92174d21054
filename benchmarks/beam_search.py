"""What a beam and a language model bring over the greedy path: error rates by beam width, without and with a bigram.

    python benchmarks/beam_search.py MODEL --valid M.jsonl --test M.jsonl [--texts M.jsonl] [--save]

MODEL is a checkpoint, a model folder or a bundled name. The search is pyctcdecode's (extra `lm`); labels of several
characters, such as phonemes, become one private character each, so that it is the same search. With --texts, a bigram
of its words (absolute discounting, Ney et al. 1994) joins; its weights are those that are best on --valid, and --test
is read with them. Until `ds2 evaluate --decoder beam` exists, this is the only place with a beam. --save writes
benchmarks/results/beam_search-NAME.json.
"""

import itertools
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import typer
from machine import machine, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.extras import require
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.metrics import Errors
from ds2_deploy.model.checkpoint import load_model
from ds2_deploy.model_folder import bundled_models, open_model
from ds2_deploy.runtime.torch_backend import TorchBackend
from ds2_deploy.text.alphabet import Alphabet
from training.corpus import survey

WIDTHS = (1, 4, 16, 64)
ALPHAS, BETAS = (0.2, 0.4, 0.7, 1.0, 1.5), (0.0, 1.0, 2.0, 3.0)
PRIVATE = 0xE000  # Unicode's private use area
Frames = npt.NDArray[np.float32]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way of decoding; rates are fractions."""

    decoder: str
    valid_wer: float
    """Of phonemes, where the labels are phonemes."""
    valid_cer: float
    test_wer: float
    test_cer: float
    utterances_per_s: float
    """Decoding alone, on one core."""


class Search:
    """pyctcdecode over any alphabet, with or without a bigram in ARPA's format."""

    def __init__(self, alphabet: Alphabet, lm: Path | None = None, words: Sequence[str] = ()) -> None:
        self.alphabet = alphabet
        spelled = [chr(PRIVATE + i) if alphabet.separator else label for i, label in enumerate(alphabet.labels)]
        spelled[alphabet.blank] = ""
        known = list(words) or None
        self.decoder = require("pyctcdecode").build_ctcdecoder(spelled, str(lm) if lm else None, unigrams=known)

    def decode(self, log_probs: Frames, width: int) -> str:
        text: str = self.decoder.decode(log_probs, beam_width=width, token_min_logp=-8.0)
        return self.alphabet.decode([ord(c) - PRIVATE for c in text]) if self.alphabet.separator else text


class Heard:
    """A manifest's log probabilities, and its texts."""

    def __init__(self, backend: TorchBackend, metadata: ModelMetadata, manifest: Path) -> None:
        self.utterances = list(survey([manifest], metadata.language, metadata.alphabet).corpus)
        self.frames: list[Frames] = []
        for utterance in self.utterances:
            audio = load_audio(utterance.path, metadata.feature.sample_rate)
            padded = np.pad(audio, (0, max(metadata.min_samples - len(audio), 0)))[None]
            found = backend.run(padded, np.array([len(audio)]))
            self.frames.append(found.log_probs[0, : int(found.lengths[0])])

    def errors(self, texts: Iterable[str]) -> Errors:
        return Errors.total(Errors.between(u.text, text) for u, text in zip(self.utterances, texts, strict=True))


def bigram(texts: Sequence[str], path: Path, discount: float = 0.7) -> list[str]:
    """Write a bigram of the words in `texts` to `path` (ARPA); returns its words."""
    sentences = [["<s>", *text.split(), "</s>"] for text in texts]
    ones = Counter(word for sentence in sentences for word in sentence[1:])
    twos = Counter(pair for sentence in sentences for pair in itertools.pairwise(sentence))
    total, contexts, followers = sum(ones.values()), Counter[str](), defaultdict[str, set[str]](set)
    for (first, second), count in twos.items():
        contexts[first] += count
        followers[first].add(second)
    words = [word for word in ones if word != "</s>"]
    below = {word: count / (total + len(ones)) for word, count in ones.items()}
    below["<unk>"] = len(ones) / (total + len(ones))
    lines = ["\\data\\", f"ngram 1={len(below) + 1}", f"ngram 2={len(twos)}", "", "\\1-grams:"]
    for word in ["<s>", *below]:
        rest = discount * len(followers[word]) / contexts[word] if contexts[word] else 1.0
        probability = math.log10(below[word]) if word in below else -99.0
        lines.append(f"{probability:.6f}\t{word}\t{math.log10(rest):.6f}")
    lines += ["", "\\2-grams:"]
    for (first, second), count in twos.items():
        back = discount * len(followers[first]) / contexts[first]
        lines.append(f"{math.log10((count - discount) / contexts[first] + back * below[second]):.6f}\t{first} {second}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return words


def rows(metadata: ModelMetadata, valid: Heard, test: Heard, texts: Path | None) -> Iterable[Row]:
    greedy = GreedyDecoder(metadata.alphabet)
    yield timed("greedy", lambda frames: greedy.decode(frames).text, valid, test)
    search = Search(metadata.alphabet)
    for width in WIDTHS:
        yield timed(f"beam {width}", partial(search.decode, width=width), valid, test)
    if texts is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bigram.arpa"
        spelled = [u.text for u in survey([texts], metadata.language, metadata.alphabet).corpus]
        search = Search(metadata.alphabet, path, bigram(spelled, path))
        best = min(itertools.product(ALPHAS, BETAS), key=lambda weights: weighted(search, weights, valid))
        search.decoder.reset_params(alpha=best[0], beta=best[1])
        for width in WIDTHS:
            name = f"beam {width}, bigram, alpha {best[0]:g}, beta {best[1]:g}"
            yield timed(name, partial(search.decode, width=width), valid, test)


def weighted(search: Search, weights: tuple[float, float], valid: Heard) -> tuple[float, float]:
    """Validation error rates of one choice of the language model's weight and the bonus of a word."""
    search.decoder.reset_params(alpha=weights[0], beta=weights[1])
    errors = valid.errors(search.decode(frames, 16) for frames in valid.frames)
    return errors.wer, errors.cer


def timed(name: str, decode: Callable[[Frames], str], valid: Heard, test: Heard) -> Row:
    started = time.perf_counter()
    texts = [[decode(frames) for frames in heard.frames] for heard in (valid, test)]
    return row(name, texts, (valid, test), time.perf_counter() - started)


def row(name: str, texts: Sequence[Sequence[str]], heard: tuple[Heard, Heard], seconds: float) -> Row:
    valid, test = (h.errors(t) for h, t in zip(heard, texts, strict=True))
    count = sum(len(h.frames) for h in heard)
    return Row(
        decoder=name,
        valid_wer=round(valid.wer, 5),
        valid_cer=round(valid.cer, 5),
        test_wer=round(test.wer, 5),
        test_cer=round(test.cer, 5),
        utterances_per_s=round(count / seconds, 1),
    )


def main(
    model: str,
    valid: Annotated[Path, typer.Option(help="Chooses the language model's weights.")],
    test: Annotated[Path, typer.Option(help="Is read with them.")],
    texts: Annotated[Path | None, typer.Option(help="Manifest whose texts make a bigram.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/beam_search-NAME.json.")] = False,
) -> None:
    """Decode two sets in every way."""
    path = open_model(model).path if model in bundled_models() else Path(model)
    network = load_model(path)
    metadata, backend = network.metadata, TorchBackend.of(network)
    sets = [Heard(backend, metadata, manifest) for manifest in (valid, test)]
    print("| decoder | valid WER | valid CER | test WER | test CER | utterances / s |\n|---|---:|---:|---:|---:|---:|")
    found = []
    for r in rows(metadata, sets[0], sets[1], texts):
        found.append(r)
        rates = " | ".join(f"{100 * v:.2f}%" for v in (r.valid_wer, r.valid_cer, r.test_wer, r.test_cer))
        print(f"| {r.decoder} | {rates} | {r.utterances_per_s:.0f} |", flush=True)
    if save:
        save_result(f"beam_search-{metadata.name}", {"machine": machine(), "model": metadata.name, "rows": found})


if __name__ == "__main__":
    typer.run(main)
