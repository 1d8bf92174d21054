"""What a longer lookahead buys: word error rate against algorithmic delay, everything else equal.

    python benchmarks/long/lookahead_wer.py --train M.jsonl... --valid M.jsonl --test M.jsonl --work DIR [--save]
        [--recipe NAME] [--epochs N] [--set key=value]... [--start MODEL|CHECKPOINT]

Trains the recipe once for each lookahead context, with one seed, and reads the validation and the test set with the
last epoch's weights, greedily. Each begins from scratch, or with the weights of --start, as `--init-from` does.
--save writes benchmarks/results/lookahead_wer.json and the curve, lookahead_wer.svg. A run that stopped goes on where
it was; finished ones are read again.
Minutes per epoch and context on a CPU: set OMP_NUM_THREADS=1 and let it run overnight.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.evaluation import Evaluation, Reference, evaluate
from ds2_deploy.extras import require
from ds2_deploy.model.checkpoint import load_checkpoint
from ds2_deploy.recognizer import Recognizer
from ds2_deploy.runtime.torch_backend import TorchBackend
from training.manifest import read_manifest
from training.recipe import load_recipe
from training.run_folder import LAST
from training.trainer import train

RESULTS = Path(__file__).parent.parent / "results" / "lookahead_wer.json"
CONTEXTS = [0, 8, 32, 4, 16]  # the ends and the middle first: a stopped study still shows the range


def main(
    train_manifest: Annotated[list[Path], typer.Option("--train")],
    valid_manifest: Annotated[Path, typer.Option("--valid")],
    test_manifest: Annotated[Path, typer.Option("--test")],
    work: Annotated[Path, typer.Option(help="Folder for the trainings.")],
    recipe: str = "an4-streaming",
    epochs: int = 25,
    override: Annotated[list[str] | None, typer.Option("--set", metavar="key=value")] = None,
    start: Annotated[Path | None, typer.Option(metavar="MODEL|CHECKPOINT", help="Begin with these weights.")] = None,
    context: Annotated[list[int] | None, typer.Option(help="Frames spanned, the present one included.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/lookahead_wer.json.")] = False,
) -> None:
    """Train and read one model per context."""
    rows = []
    for frames in context or CONTEXTS:
        out = work / f"lookahead-{frames}"
        settings = load_recipe(
            recipe, [f"model.lookahead={frames}", f"epochs={epochs}", "workers=1", *(override or [])]
        )
        done = load_checkpoint(out / LAST).metadata.provenance.epochs if (out / LAST).exists() else 0
        if done < epochs:
            first = None if done else start
            train(settings, train_manifest, [valid_manifest], out, resume=done > 0, init_from=first, device="cpu")
        rows.append(row(out / LAST, frames, valid_manifest, test_manifest))
        print_row(rows[-1])
        if save:
            rows.sort(key=_delay)
            facts = {"recipe": recipe, "epochs": epochs, "seed": settings.seed, "begun_with_weights": start is not None}
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode({**facts, "rows": rows})) + b"\n")
            draw(rows, RESULTS.with_suffix(".svg"))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """WER over delay, with its intervals."""
    plt = require("matplotlib.pyplot")
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    delays = [row["delay_ms"] for row in rows]
    for name, shift in (("valid", -4), ("test", 4)):
        rates = [100 * row[name]["wer"] for row in rows]
        ends = [[100 * abs(row[name][end] - row[name]["wer"]) for row in rows] for end in ("wer_low", "wer_high")]
        axis.errorbar([d + shift for d in delays], rates, yerr=ends, marker="o", capsize=3, label=f"AN4 {name}")
    axis.set(xlabel="algorithmic delay, ms", ylabel="WER, %", xticks=delays, ylim=(0, None))
    axis.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def row(checkpoint: Path, frames: int, valid: Path, test: Path) -> dict[str, Any]:
    model = load_checkpoint(checkpoint).model()
    recognizer = Recognizer(
        metadata=model.metadata, backend=TorchBackend.of(model), decoder=GreedyDecoder(model.metadata.alphabet)
    )
    delay_s = model.metadata.delay_s
    assert delay_s is not None
    return {
        "lookahead": frames,
        "delay_ms": round(delay_s * 1000, 3),
        "valid": _rates(recognizer, valid),
        "test": _rates(recognizer, test),
    }


def _rates(recognizer: Recognizer, manifest: Path) -> dict[str, Any]:
    result: Evaluation = evaluate(recognizer, [Reference(u.path, u.text) for u in read_manifest(manifest)])[0]
    names = ("wer", "wer_low", "wer_high", "cer", "word_errors", "words")
    return {name: round(getattr(result, name), 5) for name in names}


def print_row(row: dict[str, Any]) -> None:
    rates = "  ".join(
        f"{name} {row[name]['wer']:6.2%} ({row[name]['word_errors']} of {row[name]['words']})"
        for name in ("valid", "test")
    )
    print(f"lookahead {row['lookahead']:3d}  delay {row['delay_ms']:5.0f} ms  {rates}", flush=True)


def _delay(row: dict[str, Any]) -> float:
    return float(row["delay_ms"])


if __name__ == "__main__":
    typer.run(main)
