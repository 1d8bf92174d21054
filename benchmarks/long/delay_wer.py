"""What a longer delay buys: word error rate against algorithmic delay, everything else equal.

    python benchmarks/long/delay_wer.py --train M.jsonl... --valid M.jsonl --test M.jsonl --work DIR
        --ahead N|W+R... [--recipe NAME] [--epochs N] [--set key=value]... [--start MODEL|CHECKPOINT] [--save]

Trains the recipe once for each way to hear ahead, with one seed, and reads the validation and the test set with the
last epoch's weights, greedily. Each begins from scratch, or with the weights of --start, as `--init-from` does.

--ahead 8      a forward network with a lookahead convolution over 8 frames, the present one included; 0: none
--ahead 2+6    both directions, the backward one by windows of 2 frames that hear 6 beyond them (--start, if any, of
               both directions, too)

--save puts what was measured into benchmarks/results/delay_wer.json, in the place of what was there of the same kind,
lookaheads or windows, and draws the curves, delay_wer.svg. A run that stopped goes on where it was; finished ones are
read again.
Minutes per epoch on a CPU: set OMP_NUM_THREADS=1 and let it run overnight.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

sys.path.insert(0, str(Path(__file__).parent.parent))
from model_report import recognizer_of

from ds2_deploy.evaluation import Evaluation, evaluate
from ds2_deploy.extras import require
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model.checkpoint import load_checkpoint
from ds2_deploy.recognizer import Recognizer
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
    rows: list[dict[str, Any]] = []
    for way in ahead:
        out = work / f"ahead-{way}"
        settings = load_recipe(recipe, [*(override or []), *ways_settings(way), f"epochs={epochs}", "workers=1"])
        begun = (out / LAST).exists()
        done = load_checkpoint(out / LAST).metadata.provenance.epochs if begun else 0
        if done < epochs:
            train(settings, train_manifest, [valid_manifest], out, resume=begun, init_from=start, device="cpu")
        rows.append({"ahead": way, **measured(out / LAST, valid_manifest, test_manifest)})
        print_row(rows[-1])
        if save:
            facts = {"recipe": recipe, "epochs": epochs, "settings": override or [], "begun_with": _name(start)}
            save_rows(rows, facts)


def ways_settings(way: str) -> list[str]:
    """All that the recipe must say about how far a network hears ahead."""
    window, plus, context = way.partition("+")
    windows = f"model.bidirectional=true model.lookahead=0 model.window={window} model.window_context={context}"
    lookahead = f"model.bidirectional=false model.window=0 model.window_context=0 model.lookahead={window}"
    return (windows if plus else lookahead).split()


def _name(start: Path | None) -> str | None:
    """The weights' last two names, without the machine's folders."""
    return "/".join(start.parts[-2:]) if start else None


def save_rows(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Those of each kind that was measured, with `facts` about all of them, beside what was known of the other."""
    known = msgspec.json.decode(RESULTS.read_bytes()) if RESULTS.exists() else {}
    for name in sorted({kind(row) for row in rows}):
        chosen = sorted((row for row in rows if kind(row) == name), key=lambda row: row["delay_ms"])
        known[name] = {**facts, "rows": chosen}
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(known)) + b"\n")
    draw(known, RESULTS.with_suffix(".svg"))


def kind(row: dict[str, Any]) -> str:
    return "windows" if "+" in row["ahead"] else "lookahead"


def draw(known: dict[str, Any], path: Path) -> None:
    """WER over delay, with its intervals."""
    plt = require("matplotlib.pyplot")
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, study in known.items():
        chosen = study["rows"]
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
    recognizer = recognizer_of(load_checkpoint(checkpoint))
    delay_s = recognizer.metadata.delay_s
    assert delay_s is not None
    rates = {name: _rates(recognizer, path) for name, path in zip(SETS, (valid, test), strict=True)}
    return {"delay_ms": round(delay_s * 1000, 3), **rates}


def _rates(recognizer: Recognizer, manifest: Path) -> dict[str, Any]:
    result: Evaluation = evaluate(recognizer, read_manifest(manifest))[0]
    names = ("wer", "wer_low", "wer_high", "cer", "word_errors", "words")
    return {name: round(getattr(result, name), 5) for name in names}


def print_row(row: dict[str, Any]) -> None:
    rates = "  ".join(
        f"{name} {row[name]['wer']:6.2%} ({row[name]['word_errors']} of {row[name]['words']})" for name in SETS
    )
    print(f"ahead {row['ahead']:>6}  delay {row['delay_ms']:5.0f} ms  {rates}", flush=True)


if __name__ == "__main__":
    typer.run(main)
