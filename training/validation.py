"""One pass over the validation set: loss, greedy error rates, and what tells a collapse from a slow start."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.outcome import text_or_nothing
from ds2_deploy.metrics import Errors
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.text.languages import respelled
from training.corpus import Corpus
from training.data import checked
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
        """What epochs are compared by, one of `wer`, `cer` and `loss`; lower is better."""
        return {"wer": self.errors.wer, "cer": self.errors.cer, "loss": self.loss}[by]


@torch.no_grad()
def validate(
    model: DeepSpeech2,
    batches: DataLoader[Any],
    utterances: Corpus,
    processes: Processes,
    precision: str,
) -> Validation:
    """This process's share of the validation set, summed with the others'."""
    model.eval()
    decoder = GreedyDecoder(model.metadata.alphabet)
    blank, language = model.metadata.alphabet.blank, model.metadata.language
    counts = np.zeros(9)
    samples: dict[int, tuple[str, str]] = {}
    for batch in checked(batches):
        moved = batch.to(processes.device)
        heard, lengths = log_probs(model, moved.audio, moved.lengths, precision)
        losses = ctc_losses(heard, lengths, moved, blank, zero_infinity=False)
        short = losses.isposinf()
        counts[4] += float(losses[~short].sum())
        counts[8] += int(short.sum())
        rows = zip(heard.cpu().numpy(), lengths.tolist(), batch.indices.tolist(), strict=True)
        for row, length, index in rows:
            reference = utterances[index].text
            text = respelled(text_or_nothing(decoder, row[:length]), language)
            counts[:4] += Errors.between(reference, text)
            counts[5:8] += (int((row[:length].argmax(-1) == blank).sum()), length, len(text))
            if index < SAMPLES:
                samples[index] = (reference, text)
    samples = {index: sample for found in processes.gathered(samples) for index, sample in found.items()}
    total = processes.sum(torch.from_numpy(counts).to(processes.device)).tolist()
    return Validation(
        loss=total[4] / (len(utterances) - total[8]) if total[8] < len(utterances) else math.inf,
        short=int(total[8]),
        errors=Errors(*map(int, total[:4])),
        blank_rate=total[5] / max(total[6], 1),
        output_length=total[7] / len(utterances),
        samples=tuple(samples[index] for index in sorted(samples)),
    )
