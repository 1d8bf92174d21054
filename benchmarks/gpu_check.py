"""Everything that only a GPU can show, in one unattended run: speed, parity, error rates, tests, training, engines.

    python benchmarks/gpu_check.py pack --data $DS2_DATA --out subset       # on any machine: 14 MB of audio
    python benchmarks/gpu_check.py untrained ds2-thesis --out nets/lstm     # a network of any size, with first weights
    python benchmarks/gpu_check.py run MODEL... --data subset --out report [--batch B]... [--streams N]...
        [--train RECIPE]... [--only STEP]... [--dry-run]

MODEL is a model folder or a bundled name; graphs that it lacks are exported into a copy. The most telling comes first:

throughput   whole batches in PyTorch, then in ONNX Runtime, in half precision and in float32
recognition  the recordings of --data from samples to words with their times, as `ds2 transcribe` hears them
parity       each backend against PyTorch in float32, on --data with its error rates
streams      a step of N streams
tests        tests/gpu
training     an epoch of each --train in each precision
tensorrt     engines, and the first three of them

Each step is a process of its own, which ends by --minutes whatever it is doing: what crashes or hangs takes nothing
else along. OUT/gpu-check.json and OUT/gpu-check.md are written after each step; they say of every step that was not
taken why, and OUT/gpu-check.log has all that every step said. --dry-run takes the CPU, to see that all of it works.
"""

import json
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from bounded import Spoken, spoken
from gpu_pack import pack, untrained
from gpu_report import markdown

from ds2_deploy.bench import environment
from ds2_deploy.errors import DS2Error
from ds2_deploy.extras import installed_version
from ds2_deploy.files import atomic_path
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model_folder import ModelFolder, graph_file, open_model
from ds2_deploy.runtime.cuda_device import pycuda_driver
from ds2_deploy.runtime.devices import cpu_cores
from ds2_deploy.runtime.gpu import gpus
from ds2_deploy.runtime.trt import installed

DS2, ROWS = ("-m", "ds2_deploy"), str(Path(__file__).with_name("gpu_rows.py"))
TIMES_HEARD = 32
"""Recordings of a manifest in an epoch of a training: a batch and a step are measured, not the reading of a file."""
HEARD_S = 7200
"""Of recordings in a recognition, again and again: several batches, of which the first waits for nothing."""
STEP_LIMIT_S = 120
"""A step that hangs leaves most of --minutes to the others; what it had measured counts."""
LOG = "gpu-check.log"
PRECISIONS = ("fp16", "fp32")
"""What others publish comes first."""
app = typer.Typer(add_completion=False, help=__doc__)
Row = dict[str, Any]


class Kind(StrEnum):
    throughput = "throughput"
    recognition = "recognition"
    parity = "parity"
    streams = "streams"
    tests = "tests"
    training = "training"
    tensorrt = "tensorrt"


NEED_GRAPHS = (Kind.throughput, Kind.recognition, Kind.parity, Kind.streams, Kind.tensorrt)


app.command()(pack)
app.command()(untrained)


class Asked(NamedTuple):
    """What the steps are made of."""

    models: list[ModelFolder]
    """Copies, which graphs and engines are written to."""
    data: Path | None
    device: str
    batches: list[int]
    seconds: float
    streams: list[int]
    recipes: list[str]
    times_heard: int
    heard_s: int


class Step(NamedTuple):
    kinds: Sequence[Kind]
    """Those of --only that it belongs to; none: it is taken always."""
    name: str
    do: Callable[[], Any]


class Check:
    """The steps of one run and what became of them."""

    def __init__(self, asked: Asked, out: Path, minutes: float) -> None:
        self.asked, self.out = asked, out
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG).write_text("", encoding="utf-8")
        self.end = time.monotonic() + 60 * minutes
        self.report: Row = {
            "gpu": ", ".join(map(str, gpus())) or "no GPU",
            "device": asked.device,
            "command": shlex.join(sys.argv),
            "environment": environment.fixed(asked.models[0], cpu_cores()),
            "steps": {},
        }

    def take(self, steps: Sequence[Step]) -> None:
        """One after the other, whatever becomes of them."""
        self.report["steps"] = {step.name: {"ok": False, "reason": "it was not reached"} for step in steps}
        self.save()
        for step in steps:
            start = time.monotonic()
            try:
                result: Row = {"ok": True, "result": step.do()}
            except Exception as error:  # whatever it is, the other steps matter as much
                reason = str(error) if isinstance(error, FailedError) else f"{type(error).__name__}: {error}"
                result = {"ok": False, "reason": reason[:1000]}
            result["seconds"] = round(time.monotonic() - start, 1)
            self.report["steps"][step.name] = result
            self.save()
            print(f"{step.name}: {'ok' if result['ok'] else result['reason']} ({result['seconds']} s)", flush=True)

    def save(self) -> None:
        copies = self.asked.models[0].path.parent  # which nobody finds again
        for name, text in (
            ("gpu-check.json", json.dumps(self.report, indent=1, default=float)),
            ("gpu-check.md", markdown(self.report)),
        ):
            with atomic_path(self.out / name) as temporary:
                temporary.write_text(text.replace(f"{copies}/", ""), encoding="utf-8")

    # --- the plan --------------------------------------------------------------------------------------------------

    def plan(self) -> Iterator[Step]:
        """The most telling first. PyTorch needs no graphs; of TensorRT it is least sure that it runs."""
        asked = self.asked
        yield Step((), "about", partial(self.rows, "about", asked.device))
        for precision in PRECISIONS:
            for model in asked.models:
                yield self.throughput((Kind.throughput,), model, "torch", precision)
        yield from self.recognitions("torch")
        for model in asked.models:
            yield Step(NEED_GRAPHS, f"export {model.path.name}", partial(self.export, model))
            for precision in PRECISIONS:
                yield self.throughput((Kind.throughput,), model, "onnxruntime", precision)
        yield from self.recognitions("onnxruntime")
        yield from self.parity((Kind.parity,), ["torch", "onnxruntime"])
        yield from self.streams((Kind.streams,), ["torch", "onnxruntime"])
        yield Step((Kind.tests,), "tests", self.test)
        yield from self.trainings()
        yield from self.builds()
        for model in asked.models:
            for precision in PRECISIONS:
                yield self.throughput((Kind.tensorrt,), model, "tensorrt", precision)
        yield from self.parity((Kind.tensorrt,), ["tensorrt"])
        yield from self.streams((Kind.tensorrt,), ["tensorrt"])

    def throughput(self, kinds: Sequence[Kind], model: ModelFolder, backend: str, precision: str) -> Step:
        where = (str(model.path), backend, precision, self.asked.device)
        sizes = [*sized(self.asked.batches), "--seconds", str(self.asked.seconds)]
        name = f"throughput {model.path.name} {backend} {precision}"
        return Step(kinds, name, partial(self.rows_by, backend, "throughput", *where, *sizes))

    def recognitions(self, backend: str) -> Iterator[Step]:
        """Of the manifest with the longest recordings."""
        if not self.manifests():
            return
        heard = (str(self.longest()), "--least-s", str(self.asked.heard_s))
        for precision in PRECISIONS:
            for model in self.asked.models:
                where = (str(model.path), backend, precision, self.asked.device)
                name = f"recognition {model.path.name} {backend} {precision}"
                yield Step((Kind.recognition,), name, partial(self.rows_by, backend, "recognition", *where, *heard))

    def streams(self, kinds: Sequence[Kind], backends: list[str]) -> Iterator[Step]:
        for model in filter(can_stream, self.asked.models):
            for backend in backends:
                for precision in PRECISIONS:
                    where = (str(model.path), backend, precision, self.asked.device)
                    do = partial(self.rows_by, backend, "streams", *where, *sized(self.asked.streams))
                    yield Step(kinds, f"streams {model.path.name} {backend} {precision}", do)

    def parity(self, kinds: Sequence[Kind], backends: list[str]) -> Iterator[Step]:
        for manifest in self.manifests() or [None]:
            for model in self.asked.models:
                for backend in backends:
                    call = ["parity", str(model.path), *([str(manifest)] if manifest else [])]
                    call += ["--backend", backend, "--device", self.asked.device, "--json"]
                    heard = str(manifest.relative_to(self.asked.data)) if manifest else "made-up signals"
                    do = partial(self.compare, backend, *call)
                    yield Step(kinds, f"parity {model.path.name} {backend}, {heard}", do)

    def trainings(self) -> Iterator[Step]:
        if self.asked.recipes:
            from training.precision import AUTOCAST

            for recipe in self.asked.recipes:
                for precision in AUTOCAST:
                    do = partial(self.epoch, recipe, precision)
                    yield Step((Kind.training,), f"training {recipe} {precision}", do)

    def builds(self) -> Iterator[Step]:
        for model in self.asked.models:
            for stream in (False, True) if can_stream(model) else (False,):
                sizes = sorted(self.asked.streams if stream else self.asked.batches)
                for precision in PRECISIONS:
                    flags = [*(["--fp16"] if precision == "fp16" else []), *(["--stream"] if stream else [])]
                    batch = ["--batch", f"1:{sizes[len(sizes) // 2]}:{sizes[-1]}"]
                    do = partial(self.build, str(model.path), "--rebuild", *batch, *flags)
                    yield Step((Kind.tensorrt,), f"build {model.path.name} {' '.join(flags)}".strip(), do)

    def manifests(self) -> list[Path]:
        return sorted(self.asked.data.rglob("*.jsonl")) if self.asked.data else []

    def longest(self) -> Path:
        """The manifest with the longest recordings."""
        return max(self.manifests(), key=mean_s)

    # --- what the steps do -----------------------------------------------------------------------------------------

    def export(self, model: ModelFolder) -> str:
        """The graphs that the folder lacks, as ONNX's own recurrent nodes."""
        kinds = (False, True) if can_stream(model) else (False,)
        graphs = {graph_file(precision, stream=stream): precision for precision in PRECISIONS for stream in kinds}
        lacking = {name: precision for name, precision in graphs.items() if not (model.path / name).exists()}
        if not lacking:
            return "all graphs were there"
        reasons = [lacks(name, self.asked.device) for name in ("onnxruntime", "tensorrt")]
        if all(reasons):  # then it would only take a minute of a GPU that is lent
            raise FailedError("; ".join(filter(None, reasons)))
        precision = "fp16" if set(lacking.values()) == {"fp16"} else "both"
        with tempfile.TemporaryDirectory() as folder:
            options = ["--out", f"{folder}/model", "--precision", precision, "--allow-mismatch"]
            self.call(*DS2, "export", str(model.path), *options)
            for name in lacking:
                shutil.move(f"{folder}/model/{name}", model.path / name)
        return f"wrote {', '.join(lacking)}"

    def build(self, *arguments: str) -> str:
        self.check("tensorrt")
        return self.call(*DS2, "build-engine", *arguments)

    def compare(self, backend: str, *arguments: str) -> Any:
        """A parity report; where it found too much, too."""
        self.check(backend)
        return json.loads(self.call(*DS2, *arguments, codes=(0, 3)))

    def test(self) -> str:
        """The summary, with the reasons of what was skipped; what failed is in the reason of a step that failed."""
        options = ("-o", "addopts=", "-q", "-rfEs", "--tb=short", "-m", "gpu", "tests/gpu")
        said = self.call("-m", "pytest", *options, codes=(0, 1)).splitlines()
        told = [line for line in said if line.startswith(("SKIPPED", "FAILED", "ERROR")) or line == said[-1]]
        if any(line.startswith(("FAILED", "ERROR")) for line in told):
            raise FailedError("; ".join(told))
        return "; ".join(told)

    def epoch(self, recipe: str, precision: str) -> Row:
        """The second epoch of a training that hears each of the longest recordings so many times in one; the first,
        where it ended before its time."""
        from training.run_folder import read_log

        manifest = self.longest()
        options = ["--device", self.asked.device, "--valid", str(manifest)]
        options += ["--train", str(manifest)] * self.asked.times_heard
        for setting in ("epochs=2", "sorta_grad=false", f"precision={precision}", f"workers={min(cpu_cores(), 8)}"):
            options += ["--set", setting]
        with tempfile.TemporaryDirectory() as folder:
            *_, failure = self.spoken(*DS2, "train", recipe, "--out", f"{folder}/run", *options)
            done = read_log(Path(folder) / "run")
        if not done:
            raise FailedError(failure or "the training logged no epoch")
        found = {name: done[-1][name] for name in ("epoch", "audio_hours_per_hour", "data_wait", "loss")}
        return found | ({"reason": failure} if failure else {})

    def check(self, backend: str) -> None:
        """FailedError at once, where the process would only come to know what is known."""
        if why := lacks(backend, self.asked.device):
            raise FailedError(why)

    def rows_by(self, backend: str, *arguments: str) -> list[Row]:
        self.check(backend)
        return self.rows(*arguments)

    def rows(self, *arguments: str) -> list[Row]:
        """What gpu_rows.py measured; where it ended before its time, the last row says how."""
        said, _, failure = self.spoken(ROWS, *arguments)
        rows: list[Row] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        if failure and not rows:
            raise FailedError(failure)
        return [*rows, {"reason": failure}] if failure else rows

    def call(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """The output of Python with these arguments; FailedError where it does not end with one of these codes."""
        said, _, failure = self.spoken(*arguments, codes=codes)
        if failure:
            raise FailedError(failure)
        return said

    def spoken(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Spoken:
        left_s = min(STEP_LIMIT_S, self.end - time.monotonic())
        if left_s <= 0:
            raise FailedError("no time was left of --minutes")
        found = spoken(*arguments, limit_s=left_s, codes=codes)
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(arguments)}\n{found.out}\n{found.errors}\n{found.failure or 'well'}\n\n")
        return found


class FailedError(Exception):
    """A step that did not come to its end: the message is for the report."""


def lacks(backend: str, device: str) -> str | None:
    """What this machine has not that the backend needs on a GPU, as far as it is known without trying."""
    if device == "cpu":
        return None
    if backend == "tensorrt" and not (installed("tensorrt") or installed("tensorrt-rtx")):
        return "neither TensorRT nor TensorRT-RTX is installed"
    if backend == "tensorrt":
        try:
            pycuda_driver()
        except DS2Error as error:
            return str(error)
    if backend == "onnxruntime" and installed_version("onnxruntime-gpu") is None:
        return "onnxruntime-gpu is not installed"
    return None


def sized(sizes: list[int]) -> list[str]:
    return [word for size in sizes for word in ("--size", str(size))]


def can_stream(model: ModelFolder) -> bool:
    return not model.metadata.streaming_obstacles


def mean_s(manifest: Path) -> float:
    """Seconds of a recording, on average."""
    return statistics.mean(utterance.duration_s for utterance in read_manifest(manifest))


@app.command()
def run(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    out: Annotated[Path, typer.Option(help="Folder for gpu-check.json, .md and .log.")],
    data: Annotated[Path | None, typer.Option(help="What `pack` wrote.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Recordings at once; usually 1, 8, 16.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each of them.")] = 10.0,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Streams at once; usually 1, 8, 32.")] = None,
    train: Annotated[list[str] | None, typer.Option(metavar="RECIPE", help="Trainings to time an epoch of.")] = None,
    only: Annotated[list[Kind] | None, typer.Option(help="Not the other steps; may be given often.")] = None,
    device: Annotated[str, typer.Option(metavar="cuda:N")] = "cuda:0",
    minutes: Annotated[float, typer.Option(help="No step lasts beyond that.")] = 8.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="On the CPU.")] = False,
) -> None:
    """Check everything there is on this machine."""
    if train and not data:
        raise typer.BadParameter("--train learns from what --data names: give both.")
    out, data = out.resolve(), data and data.resolve()
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for source in models:
            model = open_model(source)
            path = model.path.resolve()
            taken = any(copy.path.name == path.name for copy in copies)
            name = f"{path.parent.name}-{path.name}" if taken else path.name
            copies.append(ModelFolder(Path(folder) / name, model.metadata))
            shutil.copytree(path, copies[-1].path)
        asked = Asked(
            models=copies,
            data=data,
            device="cpu" if dry_run else device,
            batches=batch or [1, 8, 16],
            seconds=seconds,
            streams=streams or [1, 8, 32],
            recipes=train or [],
            times_heard=1 if dry_run else TIMES_HEARD,
            heard_s=1 if dry_run else HEARD_S,
        )
        check = Check(asked, out, minutes)
        check.take([step for step in check.plan() if not (step.kinds and only) or set(step.kinds) & set(only)])
    print(f"Wrote {out / 'gpu-check.json'}, .md and .log.")


if __name__ == "__main__":
    app()
