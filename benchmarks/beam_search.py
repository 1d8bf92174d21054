"""Which decoder for what: error rates and speed by beam width, of every decoder, without and with a language model.

    python benchmarks/beam_search.py MODEL --valid M.jsonl --test M.jsonl [--lm LM] [--save]

MODEL is a checkpoint, a model folder or a bundled name. LM is a folder of `ds2 lm-build`, whose weights `ds2 lm-tune`
has put there; a model folder's own is taken without it. The network hears each recording once; what is timed is
decoding alone, on one core, the median of ROUNDS. --save writes benchmarks/results/beam_search-NAME.json.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from machine import machine, save_result

from ds2_deploy.decoding import DECODERS, make_decoder
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import ConfigError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model.checkpoint import load_model
from ds2_deploy.model_folder import LM_FOLDER, bundled_models, open_model
from ds2_deploy.runtime.torch_backend import TorchBackend
from training.lm_tune import Heard, hear

WIDTHS = (1, 4, 8, 16, 64, 256)
ROUNDS = 3


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way of decoding; rates are fractions."""

    decoder: str
    beam_width: int
    language_model: bool
    valid_wer: float
    """Of phonemes, where the labels are phonemes."""
    valid_cer: float
    test_wer: float
    test_cer: float
    utterances_per_s: float


def decoders(heard: Heard, lm: Path | None) -> Iterator[tuple[str, int, bool, Decoder]]:
    yield "greedy", 1, False, make_decoder("greedy", heard.alphabet)
    for name in DECODERS:
        for with_lm in (False, True) if lm else (False,):
            for width in WIDTHS if name != "greedy" else ():
                config = BeamConfig(search=name, beam_width=width)
                try:
                    decoder = make_decoder(replace(config, lm=lm) if with_lm else config, heard.alphabet)
                except ConfigError as error:
                    print(f"{name}: {error}")
                    break
                yield name, width, with_lm, decoder


def row(name: str, width: int, with_lm: bool, decoder: Decoder, valid: Heard, test: Heard) -> Row:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        errors = [heard.errors(decoder) for heard in (valid, test)]
        seconds.append(time.perf_counter() - started)
    return Row(
        decoder=name,
        beam_width=width,
        language_model=with_lm,
        valid_wer=round(errors[0].wer, 5),
        valid_cer=round(errors[0].cer, 5),
        test_wer=round(errors[1].wer, 5),
        test_cer=round(errors[1].cer, 5),
        utterances_per_s=round((len(valid.frames) + len(test.frames)) / statistics.median(seconds), 1),
    )


def main(
    model: str,
    valid: Annotated[Path, typer.Option(help="What the weights were tuned on.")],
    test: Annotated[Path, typer.Option(help="Is read with them.")],
    lm: Annotated[Path | None, typer.Option(help="Folder of a language model; without it, MODEL/lm.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/beam_search-NAME.json.")] = False,
) -> None:
    """Decode two sets in every way."""
    path = open_model(model).path if model in bundled_models() else Path(model)
    lm = lm or (path / LM_FOLDER if (path / LM_FOLDER).is_dir() else None)
    network = load_model(model)
    backend = TorchBackend.of(network)
    sets = [hear(backend, network.metadata, read_manifest(manifest))[0] for manifest in (valid, test)]
    print("| decoder | beam | language model | valid WER | valid CER | test WER | test CER | utterances / s |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    found = []
    for way in decoders(sets[0], lm):
        found.append(r := row(*way, sets[0], sets[1]))
        rates = " | ".join(f"{100 * v:.2f}%" for v in (r.valid_wer, r.valid_cer, r.test_wer, r.test_cer))
        known = "yes" if r.language_model else "no"
        print(f"| {r.decoder} | {r.beam_width} | {known} | {rates} | {r.utterances_per_s:.0f} |", flush=True)
    if save:
        save_result(f"beam_search-{network.metadata.name}", {"machine": machine(), "model": model, "rows": found})


if __name__ == "__main__":
    typer.run(main)
