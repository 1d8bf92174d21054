"""What a bidirectional network loses where a stream's normalisation takes the place of each recording's own.

    python benchmarks/running_norm.py [MODEL] [--manifest M.jsonl] [--save]

The same weights, untrained for it, with `utterance` and with `running` normalisation (over 3, 6 and 12 s, begun with
0.1 to 3 s of what AN4's training set is like), on AN4's test set (DS2_DATA) as it is and 30 dB quieter. The network
hears the whole recording either way: it is the normalisation alone that knows nothing of the future. --save writes
benchmarks/results/running_norm.json.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from machine import machine, save_result

from ds2_deploy.audio.load import load_audio
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.metrics import Errors
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.runtime.torch_backend import TorchBackend
from training.manifest import Utterance, read_manifest
from training.statistics import feature_statistics
from training.weights import weights_of

SETTINGS = ((6, 0.1), (6, 0.5), (6, 3), (3, 0.5), (12, 0.5))
"""`feature.running_s` and `feature.prior_s`."""
LEVELS_DB = (0, -30)


def main(
    model: str = "default",
    manifest: Annotated[Path | None, typer.Option(help="AN4's test set where nothing is said.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/running_norm.json.")] = False,
) -> None:
    """Count wrong words under each normalisation."""
    data = Path(os.environ["DS2_DATA"]) / "an4"
    utterances, rows = list(read_manifest(manifest or data / "test.jsonl")), []
    for feature, network in networks(model, data / "train.jsonl"):
        for level in LEVELS_DB:
            rows.append({**feature, "level_db": level, **wrong(network, utterances, level)})
            print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if save:
        save_result("running_norm", {"machine": machine(), "model": model, "rows": rows})


def networks(model: str, train: Path) -> Iterator[tuple[dict[str, Any], DeepSpeech2]]:
    """The model under each normalisation, and what was set."""
    checkpoint = weights_of(Path(model))
    yield {"normalization": checkpoint.metadata.feature.normalization}, checkpoint.model().eval()
    statistics = feature_statistics(read_manifest(train), checkpoint.metadata.feature)
    for running_s, prior_s in SETTINGS:
        changed = {"normalization": "running", "running_s": float(running_s), "prior_s": float(prior_s)}
        feature = msgspec.structs.replace(checkpoint.metadata.feature, **changed)
        network = DeepSpeech2(msgspec.structs.replace(checkpoint.metadata, feature=feature, statistics=statistics))
        network.load_state_dict(dict(checkpoint.weights))
        yield changed, network.eval()


def wrong(network: DeepSpeech2, utterances: list[Utterance], level_db: float) -> dict[str, Any]:
    """Words wrong, one recording after the other, decoded greedily."""
    backend, decoder = TorchBackend.of(network), GreedyDecoder(network.metadata.alphabet)
    rate, errors = network.metadata.feature.sample_rate, []
    for utterance in utterances:
        audio = load_audio(utterance.path, rate) * np.float32(10 ** (level_db / 20))
        result = backend.run(audio[None], np.array([len(audio)]))
        errors.append(Errors.between(utterance.text.lower(), decoder.decode(result.log_probs[0]).text))
    total = Errors.total(errors)
    return {"word_errors": total.word_errors, "words": total.words, "wer": round(total.wer, 4)}


if __name__ == "__main__":
    typer.run(main)
