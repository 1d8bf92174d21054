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

from ds2_deploy.errors import DS2Error
from training.manifest import read_manifest
from training.synthetic.noise import write_noises
from training.synthetic.speech import an4_texts, phrases, write_speech

SEED = 2026
SPELLED, READ = 4000, 2000
"""Synthetic utterances in the manner of AN4, and of sentences."""
NOISES_EACH = 6


class Stage(NamedTuple):
    """One call of `ds2 train`; the next one goes on from its last weights. `{data}` and `{work}` are the folders."""

    name: str
    train: tuple[str, ...]
    """A manifest that stands here three times is heard three times an epoch, each time varied anew."""
    settings: tuple[str, ...] = ()


class Model(NamedTuple):
    """What a bundled model learns from, by the recipe of its name."""

    valid: str
    stages: tuple[Stage, ...]


AN4 = ("{data}/an4/train.jsonl", "{data}/an4/valid.jsonl") * 3
DIGITS = ("{data}/digits/train.jsonl",)
SPELLING = ("{work}/spelled/manifest.jsonl",)
LIBRISPEECH = ("{data}/librispeech-mini/train.jsonl", "{data}/librispeech-mini-extra/train.jsonl")
PEOPLE = ("batch_size=16", "optimizer.learning_rate=1.5e-3", "sorta_grad=false")
"""Of the second stage, which hears people alone."""
RESTING = ("batch_size=16", "optimizer.learning_rate=4e-4", "sorta_grad=false", "norm_frozen_from=0")
"""Of the third, in which batch norm's statistics rest."""


def _commands(voices: int, people: int, resting: int) -> Model:
    return Model(
        "{data}/an4/valid.jsonl",
        (
            Stage("voices", (*AN4, *DIGITS, *SPELLING), (f"epochs={voices}",)),
            Stage("people", (*AN4, *DIGITS), (f"epochs={people}", *PEOPLE)),
            Stage("resting", (*AN4, *DIGITS), (f"epochs={resting}", *RESTING)),
        ),
    )


MODELS = {
    "default": _commands(10, 24, 7),
    "streaming": _commands(9, 32, 9),
    "sentences": Model(
        "{data}/librispeech-mini/valid.jsonl", (Stage("read", (*LIBRISPEECH, "{work}/read/manifest.jsonl")),)
    ),
}


def prepare(data: Path, work: Path) -> None:
    """Make what is not there yet: WORK/spelled, WORK/read and WORK/noise."""
    transcripts = [Path(manifest.format(data=data)) for manifest in LIBRISPEECH]
    if not (work / "spelled" / "manifest.jsonl").exists():
        texts = an4_texts(SPELLED, SEED, data / "an4" / "train.jsonl")
        write_speech(work / "spelled", texts, SEED, spelled=True)
    if not (work / "read" / "manifest.jsonl").exists():
        write_speech(work / "read", phrases(READ, SEED, transcripts), SEED + 1, spelled=False)
    if not (work / "noise").exists():
        speakers = [utterance.path for path in transcripts for utterance in read_manifest(path)]
        write_noises(work / "noise", NOISES_EACH, SEED, speakers)


def train_commands(name: str, data: Path, work: Path, more: list[str]) -> list[list[str]]:
    """The calls of `ds2 train` for a model, without the first word; `more` are further options of each."""
    model, commands = MODELS[name], []
    last: Path | None = None
    for stage in model.stages:
        run = work / name / stage.name
        command = ["train", name]
        for manifest in stage.train:
            command += ["--train", manifest.format(data=data, work=work)]
        command += ["--valid", model.valid.format(data=data), "--out", str(run)]
        for setting in (f"augment.noise={work / 'noise'}", *stage.settings):
            command += ["--set", setting]
        if (run / "last.pt").exists():
            command.append("--resume")
        elif last:
            command += ["--init-from", str(last)]
        commands.append(command + more)
        last = run / "last.pt"
    return commands


def export_command(name: str, work: Path) -> list[str]:
    """The call of `ds2 export` for a model's last weights."""
    run = work / name / MODELS[name].stages[-1].name
    return ["export", str(run / "last.pt"), "--out", str(work / name / "model")]


def run_ds2(command: list[str]) -> None:
    print("ds2", shlex.join(command), flush=True)
    code = subprocess.run([sys.executable, "-m", "ds2_deploy", *command]).returncode
    if code:
        sys.exit(code)


def train(name: str, data: Path, work: Path, more: list[str]) -> None:
    for number in range(len(MODELS[name].stages)):
        run_ds2(train_commands(name, data, work, more)[number])  # made anew: the stage before has its weights now


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
    except DS2Error as error:
        sys.exit(f"models: {error}")
    for name in names if arguments.step != "prepare" else []:
        if arguments.step in ("train", "all"):
            train(name, data, work, more)
        if arguments.step in ("export", "all") and not (work / name / "model").exists():
            run_ds2(export_command(name, work))


if __name__ == "__main__":
    main()
