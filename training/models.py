"""The models that come with the project, made anew: `make models`, or one step of it.

    python -m training.models prepare                # synthetic voices and noise, below runs/models
    python -m training.models train default          # and `streaming`, `sentences`: prints and runs `ds2 train ...`
    python -m training.models export default         # runs/models/default/model, checked against PyTorch
    python -m training.models all                    # everything, one after the other

DS2_DATA names the folder with the corpora. What is finished is not repeated, and a training goes on where it was
stopped. On a CPU two processes share the batches where there are two cores (`--processes`); they learn what one learns,
up to the draws of dropout. Stages are learnt in bf16 where the processor is faster with it; `--set precision=fp32`
forgoes that. Further options, such as `--set workers=8`, go to `ds2 train`.
"""

import argparse
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from ds2_deploy import __version__
from ds2_deploy.errors import DS2Error
from ds2_deploy.manifest import read_manifest
from ds2_deploy.metadata import Provenance
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from ds2_deploy.runtime.devices import cpu_cores
from training.precision import bf16_is_fast
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
    """MODEL/STAGE: its folder below `{work}`."""
    recipe: str
    train: tuple[str, ...]
    """A manifest that stands here twice is heard twice an epoch, each time varied anew."""
    valid: str
    settings: tuple[str, ...] = ()
    begins: Shares | None = None
    """The weights it begins with; None: random ones."""
    teacher: Shares | None = None
    """The weights of its teacher, where it has one."""


AN4, AN4_VALID = "{data}/an4/train.jsonl", "{data}/an4/valid.jsonl"
DIGITS = "{data}/digits/train.jsonl"
SPELLED_SPEECH, SPLICED_SPEECH = (f"{{work}}/{name}/manifest.jsonl" for name in ("spelled", "spliced"))
LIBRISPEECH = ("{data}/librispeech-mini/train.jsonl", "{data}/librispeech-mini-extra/train.jsonl")
LIBRISPEECH_VALID = "{data}/librispeech-mini/valid.jsonl"
ALIGNER = "default/letters"
"""The stage whose weights find the words that are spliced."""
NOISE = "augment.noise={work}/noise"
NOISY = (NOISE, "augment.noise_probability=0.5")
STREAMED = (*NOISY, "augment.joined_probability=0.2", "augment.pause_s=[0.1, 5.0]")
"""In noise, and a fifth of the recordings with others after them, as a stream goes on."""
SLOWLY = ("optimizer.learning_rate=4e-4",)
WIDE = ("model.window=4", "model.window_context=4")
"""The delay of recipe `streaming`'s windows, 2 + 6, for half the backward steps, but the last frame of a window hears
only 4 beyond it: the recipe's are learnt afterwards."""

LETTERS = ("sorta_grad=false", "model.dropout=0.25", "optimizer.learning_rate=1e-3")
BRIEFLY = ("sorta_grad=false", "model.dropout=0.25", *SLOWLY, "norm_frozen_from=0.0")
READING = (*LIBRISPEECH, AN4)
ALL = (AN4, AN4, DIGITS, SPLICED_SPEECH, SPELLED_SPEECH)
EVERYTHING = (*ALL, AN4_VALID, AN4_VALID)
PEOPLE = (AN4, AN4_VALID, DIGITS)
MOSTLY_AN4 = (*(AN4, AN4_VALID) * 3, DIGITS)


def halved(stage: str, begun: Shares) -> Shares:
    """Half of a stage, and half of what it began with."""
    return {stage: 0.5, **{name: share / 2 for name, share in begun.items()}}


DEFAULT_ALL = halved("default/all", {"default/people": 1})
DEFAULT_NOISY = halved("default/noisy", DEFAULT_ALL)
DEFAULT = halved("default/more", DEFAULT_NOISY)
STREAMING_LONGER = halved("streaming/longer", {"streaming/alone": 1})
STREAMING_MORE = halved("streaming/more", STREAMING_LONGER)
STREAMING_PEOPLE = halved("streaming/people", STREAMING_MORE)
STREAMING_DIGITS = halved("streaming/digits", STREAMING_PEOPLE)
STREAMING = halved("streaming/quiet", STREAMING_DIGITS)

STAGES = (
    Stage("sentences/read", "sentences", READING, LIBRISPEECH_VALID, (NOISE,)),
    Stage("default/letters", "an4", (AN4,), AN4_VALID, ("epochs=44", *LETTERS), begins={"sentences/read": 1}),
    Stage("default/all", "default", ALL, AN4_VALID, (NOISE,), begins={"default/letters": 1}),
    Stage(
        "default/people", "an4", PEOPLE, AN4_VALID, ("epochs=10", *BRIEFLY, "augment.silence_probability=0.25"),
        begins={"default/letters": 1},
    ),
    Stage(
        "default/noisy", "default", MOSTLY_AN4, AN4_VALID, (*NOISY, "epochs=10"),
        begins=DEFAULT_ALL,
    ),
    Stage("default/more", "default", EVERYTHING, AN4_VALID, (*NOISY, "epochs=10"), begins=DEFAULT_NOISY),
    Stage(
        "streaming/taught", "streaming", EVERYTHING, AN4_VALID,
        (*STREAMED, *WIDE, "teacher.later_frames=4", "epochs=3"),
        begins=DEFAULT, teacher=DEFAULT,
    ),
    Stage(
        "streaming/alone", "streaming", EVERYTHING, AN4_VALID, (*STREAMED, *WIDE, "epochs=3"),
        begins={"streaming/taught": 1},
    ),
    Stage(
        "streaming/longer", "streaming", EVERYTHING, AN4_VALID, (*STREAMED, "epochs=6"), begins={"streaming/alone": 1}
    ),
    Stage(
        "streaming/more", "streaming", EVERYTHING, AN4_VALID, (*STREAMED, *SLOWLY), begins=STREAMING_LONGER
    ),
    Stage(
        "streaming/people", "streaming", MOSTLY_AN4, AN4_VALID, (*STREAMED, *SLOWLY), begins=STREAMING_MORE
    ),
    Stage(
        "streaming/digits", "streaming", (*MOSTLY_AN4, DIGITS), AN4_VALID, (*STREAMED, *SLOWLY, "epochs=3"),
        begins=STREAMING_PEOPLE,
    ),
    Stage(
        "streaming/quiet", "streaming", (*MOSTLY_AN4, DIGITS), AN4_VALID,
        (*STREAMED, *SLOWLY, "augment.gain_db=[-45.0, 10.0]"),
        begins=STREAMING_DIGITS,
    ),
)  # fmt: skip
MODELS: dict[str, Shares] = {"sentences": {"sentences/read": 1}, "default": DEFAULT, "streaming": STREAMING}
"""What each model is in the end: a mean of stages' weights."""
EXPORT: dict[str, tuple[str, ...]] = {"streaming": ("--window", "1", "--window-context", "7")}
"""Options of `ds2 export`: every frame hears 7 more, where with windows of 2 + 6 every other one hears only 6, and
chunks may be any multiple of 20 ms."""


def prepare(data: Path, work: Path) -> None:
    """Make what is not there yet: WORK/spelled and WORK/noise."""
    transcripts = [Path(manifest.format(data=data)) for manifest in LIBRISPEECH]
    if not (work / "spelled" / "manifest.jsonl").exists():
        texts = an4_texts(SPELLED, SEED, data / "an4" / "train.jsonl")
        write_speech(work / "spelled", texts, SEED, spelled=True)
    if not (work / "noise").exists():
        speakers = [utterance.path for path in transcripts for utterance in read_manifest(path)]
        write_noises(work / "noise", NOISES_EACH, SEED, speakers)


@cache
def train(name: str, data: Path, work: Path, processes: int, more: tuple[str, ...]) -> None:
    """Run a stage, after those that it needs; each goes on where it was stopped, if it was."""
    stage = stage_named(name)
    for earlier in (*(stage.begins or ()), *(stage.teacher or ())):
        train(earlier, data, work, processes, more)
    if SPLICED_SPEECH in stage.train and not (work / "spliced" / "manifest.jsonl").exists():
        train(ALIGNER, data, work, processes, more)
        write_spliced(work / "spliced", [Path(AN4.format(data=data))], left_by(ALIGNER, work), SPLICED, SEED)
    for shares, path in ((stage.begins, beginning(name, work)), (stage.teacher, teaching(name, work))):
        if shares and not left_by(name, work).exists():  # else it goes on from there
            blend(name.partition("/")[0], shares, path, work)
    run_ds2([*train_command(stage, data, work), *more], processes)


def stage_named(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def left_by(name: str, work: Path) -> Path:
    """The checkpoint that a stage leaves."""
    return work / name / LAST


def beginning(name: str, work: Path) -> Path:
    """The checkpoint that a stage begins with."""
    return work / f"{name}-begins.pt"


def teaching(name: str, work: Path) -> Path:
    """The checkpoint of a stage's teacher."""
    return work / f"{name}-teacher.pt"


def train_command(stage: Stage, data: Path, work: Path) -> list[str]:
    """The call of `ds2 train` for a stage, without the first word."""
    command = ["train", stage.recipe]
    for manifest in stage.train:
        command += ["--train", manifest.format(data=data, work=work)]
    command += ["--valid", stage.valid.format(data=data), "--out", str(work / stage.name)]
    seed = STAGES.index(stage) + 1  # its own, or it would hear the variations of the stage before it again
    for setting in (*stage.settings, f"seed={seed}", f"precision={quickest_precision()}"):
        command += ["--set", setting.format(work=work)]
    if stage.teacher:
        command += ["--set", f"teacher.model={teaching(stage.name, work)}"]
    if left_by(stage.name, work).exists():
        command.append("--resume")
    elif stage.begins:
        command += ["--init-from", str(beginning(stage.name, work))]
    return command


def quickest_precision() -> str:
    """bf16 where this machine is faster with it (benchmarks/train_precision.py), else fp32."""
    return "bf16" if bf16_is_fast(torch.device("cuda" if torch.cuda.is_available() else "cpu")) else "fp32"


def export_command(name: str, work: Path) -> list[str]:
    """The call of `ds2 export` for a model's weights, which lie in WORK/NAME/model.pt."""
    return ["export", str(work / name / "model.pt"), "--out", str(work / name / "model"), *EXPORT.get(name, ())]


def blend(name: str, shares: Shares, path: Path, work: Path) -> None:
    """Write `path`: the mean of what stages left, each with its share, as the model `name`.

    It says of itself what it is a mean of, and the corpora of all; features and windows are the first stage's.
    """
    left = [load_checkpoint(left_by(stage, work)) for stage in shares]
    weights = mean_weights([one.weights for one in left], list(shares.values()))
    heard = tuple(dict.fromkeys(manifest for one in left for manifest in one.metadata.provenance.train))
    recipe = "mean of " + ", ".join(f"{share:g} {stage}" for stage, share in shares.items())
    provenance = Provenance(ds2_version=__version__, recipe=recipe, train=heard, seed=left[0].metadata.provenance.seed)
    metadata = msgspec.structs.replace(left[0].metadata, name=name, provenance=provenance)
    Checkpoint(metadata=metadata, weights=weights).save(path)


def run_ds2(command: list[str], processes: int = 1) -> None:
    print("ds2", shlex.join(command), flush=True)
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    process = subprocess.Popen([sys.executable, *several * (processes > 1), "-m", "ds2_deploy", *command])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # all have heard it; none may be left to write on beside the next run
        process.wait()
        raise
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "train", "export", "all"])
    parser.add_argument("name", nargs="?", choices=list(MODELS))
    parser.add_argument("--data", type=Path, default=os.environ.get("DS2_DATA"), help="folder of the corpora: DS2_DATA")
    parser.add_argument("--work", type=Path, default=Path("runs/models"), help="what is made: runs/models")
    usual = 1 if torch.cuda.is_available() else min(cpu_cores(), 2)
    parser.add_argument(
        "--processes", type=int, default=usual, help="that train together; usually a CPU's cores, at most 2"
    )
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
            for stage in MODELS[name] if arguments.step in ("train", "all") else ():
                train(stage, data, work, arguments.processes, tuple(more))
            if arguments.step in ("export", "all") and not (work / name / "model").exists():
                blend(name, MODELS[name], work / name / "model.pt", work)
                run_ds2(export_command(name, work))
    except KeyboardInterrupt:
        sys.exit(130)
    except DS2Error as error:
        sys.exit(f"models: {error}")


if __name__ == "__main__":
    main()
