"""The models that come with the project, made anew: `make models`, or one step of it.

    python -m training.models prepare                # synthetic voices and noise, below runs/models
    python -m training.models train default          # and `streaming`, `sentences`: prints and runs `ds2 train ...`
    python -m training.models export default         # runs/models/default/model, checked against PyTorch
    python -m training.models all                    # everything, one after the other

DS2_DATA names the folder with the corpora. What is finished is not repeated, and a training goes on where it was
stopped. Further options, such as `--set workers=8`, go to `ds2 train`.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from ds2_deploy.errors import DS2Error
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from training.manifest import read_manifest
from training.run_folder import LAST, mean_weights
from training.synthetic.noise import write_noises
from training.synthetic.speech import an4_texts, write_speech
from training.synthetic.spliced import write_spliced

SEED = 2026
SPELLED = 1500
"""Synthetic utterances in the manner of AN4."""
SPLICED = 4
"""Spliced utterances for each that was spoken."""
NOISES_EACH = 6


Shares = dict[str, float]
"""Of the weights that stages left, by their names. Between networks that grew from the same weights lie networks that
are as good as each of them on its own data, or better (Wortsman et al. 2022, "Model soups" and "Robust fine-tuning of
zero-shot models"), where the statistics of batch norm rest."""


class Stage(NamedTuple):
    """One call of `ds2 train`; `{data}` and `{work}` are the folders."""

    name: str
    recipe: str
    train: tuple[str, ...]
    """A manifest that stands here twice is heard twice an epoch, each time varied anew."""
    settings: tuple[str, ...] = ()
    begins: Shares | None = None
    """The weights it begins with; None: random ones."""
    leaves: str = LAST
    """The checkpoint that counts."""


class Model(NamedTuple):
    """What a model learns from, in stages that go on from each other's weights, and what it is in the end."""

    valid: str
    stages: tuple[Stage, ...]
    ends: Shares


AN4, AN4_VALID = "{data}/an4/train.jsonl", "{data}/an4/valid.jsonl"
DIGITS = "{data}/digits/train.jsonl"
SPELLED_SPEECH, SPLICED_SPEECH = (f"{{work}}/{name}/manifest.jsonl" for name in ("spelled", "spliced"))
LIBRISPEECH = ("{data}/librispeech-mini/train.jsonl", "{data}/librispeech-mini-extra/train.jsonl")
ALIGNER = "default"
"""The model whose first stage finds the words that are spliced."""
NOISE = "augment.noise={work}/noise"


ALL = (AN4, AN4, AN4, DIGITS, SPLICED_SPEECH)
RESTING = ("norm_frozen_from=0.0", "sorta_grad=false")
PLAIN = ("model.dropout=0.25", *RESTING)
VOICES = ("epochs=8", "augment.time_masks=2", "augment.consistency=0.0")

MODELS = {
    "default": Model(
        AN4_VALID,
        (
            Stage("an4", "an4", (AN4,), leaves="best.pt"),
            Stage("all", "default", ALL, (NOISE,), begins={"an4": 1}),
            Stage("plain", "an4", (AN4,), (*PLAIN, "epochs=44", "optimizer.learning_rate=8e-4"), begins={"an4": 1}),
            Stage(
                "people", "an4", (AN4, AN4_VALID, DIGITS), (*PLAIN, "epochs=10", "optimizer.learning_rate=4e-4"),
                begins={"plain": 1},
            ),
        ),
        ends={"all": 0.5, "people": 0.5},
    ),
    "streaming": Model(
        AN4_VALID,
        (
            Stage("an4", "an4-streaming", (AN4,), leaves="best.pt"),
            Stage(
                "voices", "streaming", (AN4, AN4, DIGITS, SPLICED_SPEECH, SPELLED_SPEECH), (NOISE, *VOICES),
                begins={"an4": 1},
            ),
            Stage("all", "streaming", ALL, (NOISE,), begins={"an4": 0.5, "voices": 0.5}),
            Stage(
                "people", "an4-streaming", (AN4, DIGITS), (*RESTING, "epochs=10", "optimizer.learning_rate=5e-4"),
                begins={"an4": 0.5, "voices": 0.5},
            ),
        ),
        ends={"all": 0.3, "people": 0.5, "an4": 0.1, "voices": 0.1},
    ),
    "sentences": Model(
        "{data}/librispeech-mini/valid.jsonl",
        (Stage("read", "sentences", (*LIBRISPEECH, AN4), (NOISE,)),),
        ends={"read": 1},
    ),
}  # fmt: skip


def prepare(data: Path, work: Path) -> None:
    """Make what is not there yet: WORK/spelled and WORK/noise."""
    transcripts = [Path(manifest.format(data=data)) for manifest in LIBRISPEECH]
    if not (work / "spelled" / "manifest.jsonl").exists():
        texts = an4_texts(SPELLED, SEED, data / "an4" / "train.jsonl")
        write_speech(work / "spelled", texts, SEED, spelled=True)
    if not (work / "noise").exists():
        speakers = [utterance.path for path in transcripts for utterance in read_manifest(path)]
        write_noises(work / "noise", NOISES_EACH, SEED, speakers)


def splice(data: Path, work: Path, more: list[str]) -> None:
    """Make WORK/spliced where it is not there yet, which takes the first stage of `default`."""
    if not (work / "spliced" / "manifest.jsonl").exists():
        aligner = MODELS[ALIGNER].stages[0]
        run_ds2(train_command(ALIGNER, aligner, data, work, more))  # goes on where it was stopped, if it was
        write_spliced(work / "spliced", [Path(AN4.format(data=data))], left_by(ALIGNER, aligner, work), SPLICED, SEED)


def left_by(name: str, stage: Stage, work: Path) -> Path:
    """The checkpoint of a model's stage that counts."""
    return work / name / stage.name / stage.leaves


def beginning(name: str, stage: Stage, work: Path) -> Path:
    """The checkpoint that a stage begins with."""
    return work / name / f"{stage.name}-begins.pt"


def train_command(name: str, stage: Stage, data: Path, work: Path, more: list[str]) -> list[str]:
    """The call of `ds2 train` for a model's stage, without the first word; `more` are further options."""
    run = work / name / stage.name
    command = ["train", stage.recipe]
    for manifest in stage.train:
        command += ["--train", manifest.format(data=data, work=work)]
    command += ["--valid", MODELS[name].valid.format(data=data), "--out", str(run)]
    for setting in stage.settings:
        command += ["--set", setting.format(work=work)]
    if (run / LAST).exists():
        command.append("--resume")
    elif stage.begins:
        command += ["--init-from", str(beginning(name, stage, work))]
    return command + more


def export_command(name: str, work: Path) -> list[str]:
    """The call of `ds2 export` for a model's weights, which lie in WORK/NAME/model.pt."""
    return ["export", str(work / name / "model.pt"), "--out", str(work / name / "model")]


def blend(name: str, shares: Shares, path: Path, work: Path) -> None:
    """Write `path`: the mean of what a model's stages left, each with its share.

    It says of itself what the first of them does, with the corpora of all.
    """
    stages = {stage.name: stage for stage in MODELS[name].stages}
    left = [load_checkpoint(left_by(name, stages[stage], work)) for stage in shares]
    weights = mean_weights([one.weights for one in left], list(shares.values()))
    heard = tuple(dict.fromkeys(manifest for one in left for manifest in one.metadata.provenance.train))
    provenance = msgspec.structs.replace(left[0].metadata.provenance, train=heard, valid_wer=None)
    metadata = msgspec.structs.replace(left[0].metadata, name=name, provenance=provenance)
    Checkpoint(metadata=metadata, weights=weights).save(path)


def run_ds2(command: list[str]) -> None:
    print("ds2", shlex.join(command), flush=True)
    code = subprocess.run([sys.executable, "-m", "ds2_deploy", *command]).returncode
    if code:
        sys.exit(code)


def train(name: str, data: Path, work: Path, more: list[str]) -> None:
    for stage in MODELS[name].stages:
        if SPLICED_SPEECH in stage.train:
            splice(data, work, more)
        if stage.begins and not (work / name / stage.name / LAST).exists():  # else it goes on from there
            blend(name, stage.begins, beginning(name, stage, work), work)
        run_ds2(train_command(name, stage, data, work, more))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "train", "export", "all"])
    parser.add_argument("name", nargs="?", choices=list(MODELS))
    parser.add_argument("--data", type=Path, default=os.environ.get("DS2_DATA"), help="folder of the corpora: DS2_DATA")
    parser.add_argument("--work", type=Path, default=Path("runs/models"), help="what is made: runs/models")
    arguments, more = parser.parse_known_args()
    if not arguments.data:
        parser.error("name the folder of the corpora with --data or the environment variable DS2_DATA")
    if (arguments.step in ("train", "export")) != (arguments.name is not None):
        parser.error("`train` and `export` need the name of a model, and the other steps have none")
    data, work, names = Path(arguments.data), arguments.work, [arguments.name] if arguments.name else list(MODELS)
    try:
        if arguments.step in ("prepare", "all"):
            prepare(data, work)
        for name in names if arguments.step != "prepare" else []:
            if arguments.step in ("train", "all"):
                train(name, data, work, more)
            if arguments.step in ("export", "all") and not (work / name / "model").exists():
                blend(name, MODELS[name].ends, work / name / "model.pt", work)
                run_ds2(export_command(name, work))
    except DS2Error as error:
        sys.exit(f"models: {error}")


if __name__ == "__main__":
    main()
