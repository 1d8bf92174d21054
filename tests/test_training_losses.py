"""Which utterances the training loss is the mean of."""

import json

import pytest
import torch

from tests.test_training_wiring import recipe, speech
from training.data import long_enough
from training.run_folder import read_log
from training.trainer import train

SPEED = 1.25
SPED_UP = [f"augment.speeds=[{SPEED}]", "feature.normalization=utterance", "model.batch_norm=false"]
"""Nothing that one utterance makes of another."""


def crowded(corpus):
    """The tones, and one of them again with a text that fits until it is sped up: 48 labels at 50 frames a second."""
    lines = [json.loads(line) for line in corpus.read_text().split("\n")]
    longest = max(lines, key=lambda line: line["duration"])
    path = corpus.parent / "crowded.jsonl"
    text = ("abc" * 40)[: int(45 * longest["duration"])]
    path.write_text("\n".join(map(json.dumps, [*lines, longest | {"text": text}])))
    return path


def test_the_loss_is_of_the_utterances_that_are_long_enough(corpus, tmp_path, capsys):
    """As in validation; one too short for its text has no loss, which would count as a perfect one."""
    settings = recipe(tmp_path, *SPED_UP, "optimizer.learning_rate=1e-30", epochs=2)
    for name, manifest in (("with", crowded(corpus)), ("without", corpus)):
        train(settings, [manifest], [corpus], tmp_path / name)
        said = capsys.readouterr().err
        assert said.count("1 of 19 utterances were too short for their text in epoch 1") == (name == "with")
        assert "Left out" not in said
    for one, other in zip(*(read_log(tmp_path / name) for name in ("with", "without")), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_long_enough_is_what_has_a_loss(corpus):
    """Against PyTorch's: infinite where no path gives the text."""
    model, dataset = speech(crowded(corpus), speeds=(SPEED,))
    batch = dataset[[(1, i) for i in range(19)]]
    log_probs, lengths = model(batch.audio, batch.lengths)
    losses = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, reduction="none"
    )
    found = long_enough(batch, model.metadata)
    assert found.tolist() == losses.isfinite().tolist()
    assert found.tolist() == [True] * 18 + [False]
