"""What a bidirectional network loses where a stream's normalisation takes the place of each recording's own.

    python benchmarks/running_norm.py [MODEL] [--manifest M.jsonl] [--save]

The same weights, untrained for it, with `utterance` and with `running` normalisation (over 3, 6 and 12 s, begun with
0.1 to 3 s of what AN4's training set is like), on AN4's test set (DS2_DATA) as it is and 30 dB quieter. The network
hears the whole recording either way: it is the normalisation alone that knows nothing of the future. --save writes
benchmarks/results/running_norm.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from machine import data, machine, save_result
from model_report import measured, recognizer_of, spoken

from ds2_deploy.manifest import read_manifest
from ds2_deploy.model.checkpoint import Checkpoint, open_checkpoint
from ds2_deploy.recognizer import Recognizer
from training.augment import change_level
from training.statistics import feature_statistics

SETTINGS = ((6, 0.1), (6, 0.5), (6, 3), (3, 0.5), (12, 0.5))
"""`feature.running_s` and `feature.prior_s`."""
LEVELS_DB = (0, -30)


def main(
    model: Annotated[str, typer.Argument()] = "default",
    manifest: Annotated[Path | None, typer.Option(help="AN4's test set where nothing is said.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/running_norm.json.")] = False,
) -> None:
    """Count wrong words under each normalisation."""
    an4, rows = data() / "an4", []
    recognizers = list(under_each(model, an4 / "train.jsonl"))
    texts, recordings = spoken(manifest or an4 / "test.jsonl", recognizers[0][1].metadata)
    for level in LEVELS_DB:
        audio = [change_level(samples, level) for samples in recordings]
        for feature, recognizer in recognizers:
            row = measured(recognizer, "an4", f"{level} dB", texts, audio)
            rows.append({**feature, "level_db": level, "word_errors": row.word_errors, "words": row.words})
            print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if save:
        save_result("running_norm", {"machine": machine(), "model": model, "rows": rows})


def under_each(model: str, train: Path) -> Iterator[tuple[dict[str, Any], Recognizer]]:
    """What is set, and the model so, decoded greedily."""
    checkpoint = open_checkpoint(model)
    yield {"normalization": checkpoint.metadata.feature.normalization}, recognizer_of(checkpoint)
    known = with_running(checkpoint, train).metadata
    for running_s, prior_s in SETTINGS:
        changed = {"normalization": "running", "running_s": float(running_s), "prior_s": float(prior_s)}
        metadata = msgspec.structs.replace(known, feature=msgspec.structs.replace(known.feature, **changed))
        yield changed, recognizer_of(Checkpoint(metadata=metadata, weights=checkpoint.weights))


def with_running(checkpoint: Checkpoint, train: Path) -> Checkpoint:
    """The same weights with `running` normalisation, begun with what the training set is like."""
    metadata = checkpoint.metadata
    feature = msgspec.structs.replace(metadata.feature, normalization="running")
    statistics = feature_statistics(read_manifest(train), feature)
    metadata = msgspec.structs.replace(metadata, feature=feature, statistics=statistics)
    return Checkpoint(metadata=metadata, weights=checkpoint.weights)


if __name__ == "__main__":
    typer.run(main)
