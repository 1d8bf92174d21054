"""What a longer delay buys: word error rate against algorithmic delay, everything else equal.

    python benchmarks/long/delay_wer.py --train M.jsonl... --valid M.jsonl --test M.jsonl --work DIR
        --ahead N|W+R... [--recipe NAME] [--epochs N] [--set key=value]... [--start MODEL|CHECKPOINT] [--save]

Trains the recipe once for each way to hear ahead, with one seed, and reads the validation and the test set with the
last epoch's weights, greedily. Each begins from scratch, or with the weights of --start, as `--init-from` does.

--ahead 8      a forward network with a lookahead convolution over 8 frames, the present one included; 0: none
--ahead 2+6    both directions, the backward one by windows of 2 frames that hear 6 beyond them

--save puts what was measured into benchmarks/results/delay_wer.json, beside other ways or in the place of the same, and
draws the curve, delay_wer.svg. A run that stopped goes on where it was; finished ones are read again.
Minutes per epoch on a CPU: set OMP_NUM_THREADS=1 and let it run overnight.
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

RESULTS = Path(__file__).parent.parent / "results" / "delay_wer.json"
SETS = ("valid", "test")
COLOURS = {"lookahead": "tab:blue", "windows": "tab:orange"}


def main(
    train_manifest: Annotated[list[Path], typer.Option("--train")],
    valid_manifest: Annotated[Path, typer.Option("--valid")],
    test_manifest: Annotated[Path, typer.Option("--test")],
    work: Annotated[Path, typer.Option(help="Folder for the trainings.")],
    ahead: Annotated[list[str], typer.Option(help="Frames of a lookahead, or window+context.")],
    recipe: str = "an4-streaming",
    epochs: int = 25,
    override: Annotated[list[str] | None, typer.Option("--set", metavar="key=value")] = None,
    start: Annotated[Path | None, typer.Option(metavar="MODEL|CHECKPOINT", help="Begin with these weights.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/delay_wer.json.")] = False,
) -> None:
    """Train and read one model for each way to hear ahead."""
    for way in ahead:
        out = work / f"ahead-{way}"
        settings = load_recipe(recipe, [*_settings(way), f"epochs={epochs}", "workers=1", *(override or [])])
        done = load_checkpoint(out / LAST).metadata.provenance.epochs if (out / LAST).exists() else 0
        if done < epochs:
            first = None if done else start
            train(settings, train_manifest, [valid_manifest], out, resume=done > 0, init_from=first, device="cpu")
        facts = {"recipe": recipe, "epochs": epochs, "seed": settings.seed, "begun_with_weights": start is not None}
        row = {"ahead": way, **measured(out / LAST, valid_manifest, test_manifest), **facts}
        print_row(row)
        if save:
            rows = [other for other in msgspec.json.decode(RESULTS.read_bytes()) if other["ahead"] != way]
            rows = sorted([*rows, row], key=lambda row: (kind(row), row["delay_ms"]))
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
            draw(rows, RESULTS.with_suffix(".svg"))


def _settings(way: str) -> list[str]:
    window, plus, context = way.partition("+")
    return [f"model.window={window}", f"model.window_context={context}"] if plus else [f"model.lookahead={window}"]


def kind(row: dict[str, Any]) -> str:
    return "windows" if "+" in row["ahead"] else "lookahead"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """WER over delay, with its intervals."""
    plt = require("matplotlib.pyplot")
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in sorted({kind(row) for row in rows}):
        chosen = [row for row in rows if kind(row) == name]
        for split, shift, style in (("valid", -4, "--"), ("test", 4, "-")):
            read = [row[split] for row in chosen]
            rates = [100 * one["wer"] for one in read]
            ends = [[100 * abs(one[end] - one["wer"]) for one in read] for end in ("wer_low", "wer_high")]
            places = [row["delay_ms"] + shift for row in chosen]
            label = f"{name}, AN4 {split}"
            axis.errorbar(
                places, rates, yerr=ends, marker="o", capsize=3, label=label, color=COLOURS[name], linestyle=style
            )
    axis.set(xlabel="algorithmic delay, ms", ylabel="WER, %", ylim=(0, None))
    axis.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def measured(checkpoint: Path, valid: Path, test: Path) -> dict[str, Any]:
    """Delay and error rates of a training's last weights."""
    model = load_checkpoint(checkpoint).model()
    recognizer = Recognizer(
        metadata=model.metadata, backend=TorchBackend.of(model), decoder=GreedyDecoder(model.metadata.alphabet)
    )
    delay_s = model.metadata.delay_s
    assert delay_s is not None
    rates = {name: _rates(recognizer, path) for name, path in zip(SETS, (valid, test), strict=True)}
    return {"delay_ms": round(delay_s * 1000, 3), **rates}


def _rates(recognizer: Recognizer, manifest: Path) -> dict[str, Any]:
    result: Evaluation = evaluate(recognizer, [Reference(u.path, u.text) for u in read_manifest(manifest)])[0]
    names = ("wer", "wer_low", "wer_high", "cer", "word_errors", "words")
    return {name: round(getattr(result, name), 5) for name in names}


def print_row(row: dict[str, Any]) -> None:
    rates = "  ".join(
        f"{name} {row[name]['wer']:6.2%} ({row[name]['word_errors']} of {row[name]['words']})" for name in SETS
    )
    print(f"ahead {row['ahead']:>6}  delay {row['delay_ms']:5.0f} ms  {rates}", flush=True)


if __name__ == "__main__":
    typer.run(main)
