"""One pass over the validation set: loss, greedy error rates, and what tells a collapse from a slow start."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.outcome import text_or_nothing
from ds2_deploy.errors import DS2Error
from ds2_deploy.metrics import Errors
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.text.languages import respelled
from training.corpus import Corpus
from training.data import Batch, checked
from training.distributed import Processes
from training.precision import log_probs
from training.step import ctc_losses

SAMPLES = 4


@dataclass(kw_only=True)
class Validation:
    """What a validation pass adds up to."""

    loss: float
    """Per utterance, in nats, of those long enough for their text."""
    errors: Errors
    blank_rate: float
    """Share of frames whose most probable label is the blank; near 1 in the first epochs, and on a collapse."""
    output_length: float
    """Mean characters per hypothesis."""
    short: int = 0
    """Utterances too short for their text: no output can be it, so they count as errors and have no finite loss."""
    samples: tuple[tuple[str, str], ...] = ()
    """Transcript and hypothesis of a few utterances, the same in every epoch."""

    def result(self, by: str) -> float:
        """What epochs are compared by, one of `wer`, `cer` and `loss`; lower is better. Rates above one are one: in the
        first epochs they say how much is babbled, and who babbles less is not worse."""
        return {"wer": min(self.errors.wer, 1.0), "cer": min(self.errors.cer, 1.0), "loss": self.loss}[by]


class Sums(NamedTuple):
    """Over utterances; plain numbers, so that one tensor adds them up over processes."""

    loss: float = 0.0
    """Of those long enough for their text."""
    short: float = 0
    """Utterances that are not."""
    blanks: float = 0
    """Frames whose most probable label is the blank."""
    frames: float = 0
    output_length: float = 0
    """Characters of the hypotheses."""
    word_errors: float = 0
    words: float = 0
    character_errors: float = 0
    characters: float = 0

    def plus(self, other: "Sums") -> "Sums":
        return Sums(*map(sum, zip(self, other, strict=True)))

    @property
    def errors(self) -> Errors:
        return Errors(int(self.word_errors), int(self.words), int(self.character_errors), int(self.characters))


@torch.no_grad()
def validate(
    model: DeepSpeech2,
    batches: Iterable[Batch | DS2Error],
    utterances: Corpus,
    processes: Processes,
    precision: str,
) -> Validation:
    """This process's share of the validation set, summed with the others'."""
    model.eval()
    decoder = GreedyDecoder(model.metadata.alphabet)
    blank, language = model.metadata.alphabet.blank, model.metadata.language
    sums = Sums()
    samples: dict[int, tuple[str, str]] = {}
    for batch in checked(batches):
        moved = batch.to(processes.device)
        heard, lengths = log_probs(model, moved.audio, moved.lengths, precision)
        losses = ctc_losses(heard, lengths, moved, blank, zero_infinity=False)
        short = losses.isposinf()
        sums = sums.plus(Sums(loss=float(losses[~short].sum()), short=int(short.sum())))
        rows = zip(heard.cpu().numpy(), lengths.tolist(), batch.indices.tolist(), strict=True)
        for row, length, index in rows:
            reference = utterances[index].text
            text = respelled(text_or_nothing(decoder, row[:length]), language)
            blanks = int((row[:length].argmax(-1) == blank).sum())
            errors = Errors.between(reference, text)._asdict()
            sums = sums.plus(Sums(blanks=blanks, frames=length, output_length=len(text), **errors))
            if index < SAMPLES:
                samples[index] = (reference, text)
    samples = {index: sample for found in processes.gathered(samples) for index, sample in found.items()}
    added = torch.tensor(sums, dtype=torch.float64, device=processes.device)
    total = Sums(*processes.sum(added).tolist())
    count = len(utterances)
    return Validation(
        loss=total.loss / (count - total.short) if total.short < count else math.inf,
        short=int(total.short),
        errors=total.errors,
        blank_rate=total.blanks / max(total.frames, 1),
        output_length=total.output_length / count,
        samples=tuple(samples[index] for index in sorted(samples)),
    )
