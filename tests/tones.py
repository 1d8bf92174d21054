"""A corpus of tones that a network learns in seconds, and a recipe for it."""

import json
from pathlib import Path

import numpy as np
import soundfile

from training.recipe import Recipe, load_recipe

RECIPE = """
batch_size = 4
workers = 0
alphabet = " abc"
epochs = {epochs}
sorta_grad = true

[feature]
spectrum = "log_mel"
mel_bands = 20
normalization = "global"

[model]
rnn_layers = 1
rnn_size = 24
conv = [{{ channels = 4, kernel = [5, 5], stride = [2, 2] }}]

[optimizer]
learning_rate = 1e-2
"""

TONES_HZ = {"a": 400.0, "b": 1100.0, "c": 2700.0, " ": 0.0}


def write_corpus(root: Path) -> Path:
    """18 "utterances" in which every letter is a tone of a tenth of a second; a manifest."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(18):
        text = "".join(rng.choice(list("abc"), rng.integers(2, 6))) + (" b" if i % 3 == 0 else "")
        parts = []
        for letter in text:
            t = np.arange(int(16000 * rng.uniform(0.09, 0.13))) / 16000
            parts += [0.3 * np.sin(2 * np.pi * TONES_HZ[letter] * t), np.zeros(800)]
        samples = np.concatenate(parts) + 1e-3 * rng.standard_normal(sum(map(len, parts)))
        soundfile.write(root / f"{i}.wav", samples, 16000)
        lines.append(json.dumps({"audio_filepath": f"{i}.wav", "duration": len(samples) / 16000, "text": text}))
    (root / "m.jsonl").write_text("\n".join(lines))
    return root / "m.jsonl"


def recipe(tmp_path: Path, *overrides: str, epochs: int = 1) -> Recipe:
    """The recipe with what a test changes in it; it lies in `tmp_path`/tones.toml, too, without the changes."""
    (tmp_path / "tones.toml").write_text(RECIPE.format(epochs=epochs))
    return load_recipe(str(tmp_path / "tones.toml"), list(overrides))


def losses(run: Path) -> list[tuple[float, float]]:
    """Of every epoch that the folder's log has: in training and in validation."""
    from training.run_folder import read_log  # torch is heavy, and conftest.py imports this file

    return [(entry["loss"], entry["valid_loss"]) for entry in read_log(run)]
