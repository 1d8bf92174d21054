"""Everything that only a GPU can show, in one unattended run: engines, tests, parity, error rates, speed.

    python benchmarks/gpu_check.py pack --data $DS2_DATA --out subset       # on any machine: at most 30 MiB of audio
    python benchmarks/gpu_check.py untrained ds2-thesis --out nets/lstm     # a network of any size, with first weights
    python benchmarks/gpu_check.py run MODEL... --data subset --out report [--batch B]... [--streams N]...
        [--train RECIPE]... [--dry-run]

MODEL is a model folder (with FP16 graphs where `ds2 export` wrote them) or a bundled name. Every step goes on past
what fails and says why, and none lasts beyond --minutes. OUT/gpu-check.json and OUT/gpu-check.md are written after
each step, so that a run that is cut short leaves what it had. --dry-run takes the CPU, to see that all of it works.
"""

import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import soundfile
import typer
from machine import machine

from ds2_deploy.audio.load import load_audio
from ds2_deploy.bench.stats import Latency
from ds2_deploy.files import atomic_path
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model_folder import PRECISIONS, ModelFolder, graph_file, open_model
from ds2_deploy.runtime import BACKENDS, open_backend, open_stream_backend
from ds2_deploy.runtime.devices import cpu_cores
from ds2_deploy.runtime.gpu import gpus
from export.parity import Difference
from training.precision import AUTOCAST
from training.recipe import load_recipe
from training.run_folder import read_log

ROOT = Path(__file__).parent.parent
PACKED = {"an4/test.jsonl": 130, "digits/test.jsonl": 100, "librispeech-mini/valid.jsonl": 40}
"""Utterances taken from each manifest."""
LARGEST_PACK = 30 << 20
RUNS = 150
"""At most; as many as a 98th percentile takes."""
SHAPE_LIMIT_S = 4
TIMES_HEARD = 32
"""Recordings of a manifest in an epoch of a training: a batch and a step are measured, not the reading of a file."""
STEP_LIMIT_S = 240

app = typer.Typer(add_completion=False, help=__doc__)
Row = dict[str, Any]


@app.command()
def pack(
    data: Annotated[Path, typer.Option(help="The folder of the corpora.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
) -> None:
    """Take a little of every corpus along, as FLAC with manifests."""
    size = 0
    for name, count in PACKED.items():
        if not (data / name).exists():
            continue
        folder, lines = out / Path(name).parent, []
        folder.mkdir(parents=True, exist_ok=True)
        for number, utterance in enumerate(read_manifest(data / name)[:count]):
            file = folder / f"{number:04}.flac"
            soundfile.write(file, load_audio(utterance.path, 16_000), 16_000)
            size += file.stat().st_size
            entry = {"audio_filepath": file.name, "duration": utterance.duration_s, "text": utterance.text}
            lines.append(json.dumps(entry))
        (out / name).write_text("\n".join(lines) + "\n")
    typer.echo(f"{size / (1 << 20):.1f} MiB in {out}")
    if size > LARGEST_PACK:
        raise typer.Exit(1)


@app.command()
def untrained(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    recurrence: Annotated[Literal["node", "loop", "unrolled"], typer.Option(help="As of ds2 export.")] = "node",
) -> None:
    """Export a recipe's network with its first weights, which is as fast as when it has learnt."""
    import torch
    from train_precision import metadata_of

    from ds2_deploy.model.checkpoint import Checkpoint
    from ds2_deploy.model.deepspeech2 import DeepSpeech2
    from ds2_deploy.model.initialize import initialize
    from export.exporter import export_model

    found = load_recipe(recipe, settings or [])
    torch.manual_seed(found.seed)
    model = DeepSpeech2(metadata_of(found))
    initialize(model, found.initialization)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.pt"
        Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(path)
        export_model(path, out, recurrence=recurrence, allow_mismatch=True)  # `run` compares
    typer.echo(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {out}")


class Check:
    """The steps of one run and what became of them."""

    def __init__(self, models: list[str], data: Path | None, out: Path, device: str, minutes: float) -> None:
        self.models, self.data, self.out, self.device = [open_model(name) for name in models], data, out, device
        self.end = time.monotonic() + 60 * minutes
        self.report: dict[str, Any] = {"device": device, "steps": {}}

    def step(self, name: str, do: Callable[[], Any]) -> None:
        """Do it, or say why not."""
        start = time.monotonic()
        if start > self.end:
            self.report["steps"][name] = {"ok": False, "reason": "no time was left"}
            return
        try:
            result: Row = {"ok": True, "result": do()}
        except Exception as error:  # whatever it is, the other steps matter as much
            result = {"ok": False, "reason": f"{type(error).__name__}: {str(error)[:300]}"}
        result["seconds"] = round(time.monotonic() - start, 1)
        self.report["steps"][name] = result
        self.save()
        print(f"{name}: {'ok' if result['ok'] else result['reason']} ({result['seconds']} s)", flush=True)

    def save(self) -> None:
        for name, text in (
            ("gpu-check.json", json.dumps(self.report, indent=1, default=float)),
            ("gpu-check.md", markdown(self.report)),
        ):
            with atomic_path(self.out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def call(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """The output of Python with these arguments; RuntimeError with its last line where it ends otherwise."""
        left_s = max(min(STEP_LIMIT_S, self.end - time.monotonic()), 1)
        call = [sys.executable, "-m", *arguments]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=left_s, check=False)
        if done.returncode not in codes:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise RuntimeError(f"exit code {done.returncode}: {said}")
        return done.stdout

    def manifests(self) -> list[Path]:
        return sorted(self.data.rglob("*.jsonl")) if self.data else []

    def graphs(self) -> Iterator[tuple[ModelFolder, str, bool]]:
        """Every model's graphs: folder, precision, whether of a stream."""
        for model in self.models:
            for stream in (False, True):
                for precision in PRECISIONS:
                    if (model.path / graph_file(precision, stream=stream)).exists():
                        yield model, precision, stream

    def build(self, batches: list[int], streams: list[int]) -> None:
        for model, precision, stream in self.graphs():
            sizes = sorted(streams if stream else batches)
            flags = ["--batch", f"1:{sizes[len(sizes) // 2]}:{sizes[-1]}"]
            flags += [*(["--fp16"] if precision == "fp16" else []), *(["--stream"] if stream else [])]
            call = ("ds2_deploy", "build-engine", str(model.path), "--rebuild", *flags)
            self.step(f"build {model.path.name} {' '.join(flags[2:])}".strip(), lambda c=call: self.call(*c).strip())

    def test(self) -> str:
        """The summary, with the reasons of what was skipped."""
        said = self.call("pytest", "-o", "addopts=", "-q", "-rs", "-m", "gpu", "tests/gpu").strip().splitlines()
        return "; ".join(line for line in said if line.startswith("SKIPPED") or line == said[-1])

    def compare(self) -> None:
        manifests = self.manifests()
        for model in self.models:
            call = (
                "ds2_deploy",
                "parity",
                str(model.path),
                *map(str, manifests[:1]),
                "--device",
                self.device,
                "--json",
            )
            self.step(f"parity {model.path.name}", lambda c=call: json.loads(self.call(*c, codes=(0, 3))))
        for model in self.models:
            for manifest in manifests:
                for backend in BACKENDS:
                    for precision in [p for m, p, stream in self.graphs() if m is model and not stream]:
                        if backend == "torch" and precision != "fp32":
                            continue
                        options = ("--backend", backend, "--precision", precision, "--device", self.device, "--json")
                        call = ("ds2_deploy", "evaluate", str(model.path), str(manifest), *options)
                        self.step(
                            f"WER {model.path.name} {manifest.parent.name} {backend} {precision}",
                            lambda c=call: json.loads(self.call(*c)),
                        )

    def measure(self, sizes: list[int], *, streams: bool, seconds: float) -> None:
        for model, precision, stream in self.graphs():
            if stream != streams:
                continue
            for backend in BACKENDS if precision == "fp32" else [name for name in BACKENDS if name != "torch"]:
                kind = "latency" if stream else "throughput"
                self.step(
                    f"{kind} {model.path.name} {backend} {precision}",
                    lambda m=model, b=backend, p=precision, s=stream: list(
                        self.steps_of(m, b, p, sizes) if s else self.runs_of(m, b, p, sizes, seconds)
                    ),
                )

    def train(self, recipes: list[str], times: int) -> None:
        for recipe in recipes:
            for precision in AUTOCAST:
                self.step(
                    f"training {recipe} {precision}",
                    lambda r=recipe, p=precision: self.epoch(r, p, max(self.manifests(), key=mean_s), times),
                )

    def epoch(self, recipe: str, precision: str, manifest: Path, times: int) -> Row:
        """The second epoch of a training that hears each recording so many times in one."""
        options = ["--device", self.device, "--valid", str(manifest), *["--train", str(manifest)] * times]
        for setting in ("epochs=2", "sorta_grad=false", f"precision={precision}", f"workers={min(cpu_cores(), 8)}"):
            options += ["--set", setting]
        with tempfile.TemporaryDirectory() as folder:
            self.call("ds2_deploy", "train", recipe, "--out", f"{folder}/run", *options)
            *_, last = read_log(Path(folder) / "run")
        return {name: last[name] for name in ("audio_hours_per_hour", "data_wait", "loss")}

    def runs_of(
        self, model: ModelFolder, name: str, precision: Any, batches: list[int], seconds: float
    ) -> Iterator[Row]:
        """Whole batches, from samples to log-probabilities, copies included; what fails is a row that says why."""
        backend = open_backend(name, model, device=self.device, precision=precision)
        samples = round(seconds * model.metadata.feature.sample_rate)
        for batch in batches:
            audio = np.random.default_rng(0).standard_normal((batch, samples)).astype(np.float32) * 0.1
            lengths = np.full(batch, samples, np.int64)
            row = {"batch": batch, "seconds": seconds}
            yield row | timed(lambda a=audio, n=lengths: backend.run(a, n), batch * seconds, self.end)

    def steps_of(self, model: ModelFolder, name: str, precision: Any, streams: list[int]) -> Iterator[Row]:
        """A chunk of each of several streams, from samples to log-probabilities, the state there and back."""
        backend = open_stream_backend(name, model, device=self.device, precision=precision)
        chunk_s = backend.chunk_samples / model.metadata.feature.sample_rate
        for batch in streams:
            audio = np.random.default_rng(0).standard_normal((batch, backend.chunk_samples)).astype(np.float32) * 0.1
            lengths, state = np.full(batch, backend.chunk_samples, np.int64), backend.initial_state(batch)
            row = {"streams": batch, "seconds": chunk_s}
            yield row | timed(lambda a=audio, n=lengths, s=state: backend.step(a, n, s), batch * chunk_s, self.end)


def timed(run: Callable[[], Any], audio_s: float, end: float) -> Row:
    """Latency of RUNS calls after two that warm up, or of fewer where they are slow or the time is over."""
    times_ms: list[float] = []
    end = min(end, time.monotonic() + SHAPE_LIMIT_S)
    try:
        for _ in range(2):
            run()
        while len(times_ms) < RUNS and (not times_ms or time.monotonic() < end):
            start = time.perf_counter()
            run()
            times_ms.append(1000 * (time.perf_counter() - start))
    except Exception as error:  # such as a GPU's memory that is full: smaller ones have been measured
        return {"reason": f"{type(error).__name__}: {str(error)[:200]}"}
    latency = Latency.of([times_ms])
    found = {name: getattr(latency, name) for name in ("p50", "p50_low", "p50_high", "p98", "max")}
    return found | {"runs": len(times_ms), "rtfx": 1000 * audio_s / latency.p50}


def mean_s(manifest: Path) -> float:
    """Seconds of a recording, on average."""
    return statistics.mean(utterance.duration_s for utterance in read_manifest(manifest))


def difference_of(row: Row) -> Difference:
    """Of a parity report's JSON, which has no infinity."""
    infinite = {name: math.inf for name in ("max_abs", "mean_abs") if row[name] is None}
    return msgspec.convert(row | infinite, Difference)


def markdown(report: dict[str, Any]) -> str:
    """Tables of what was measured, and a list of what was not, with reasons."""
    done = {name: step["result"] for name, step in report["steps"].items() if step["ok"]}
    lines = [f"# GPU check on {report['gpu']}", "", f"{report['machine']['python']}, device {report['device']}", ""]
    lines += ["| engine or test | |", "|---|---|"]
    lines += [f"| {name} | {done[name]} |" for name in done if name.startswith(("build", "tests"))]
    lines += ["", "| WER | words | |", "|---|---|---|"]
    for name in done:
        if name.startswith("WER"):
            lines.append(f"| {name[4:]} | {done[name]['words']} | {done[name]['wer']:.2%} |")
    lines += ["", "| parity | backend | max abs | equal labels | words apart | |", "|---|---|---|---|---|---|"]
    for name in done:
        for d in map(difference_of, done[name]["differences"]) if name.startswith("parity") else ():
            cells = (name[7:], f"{d.backend} {d.precision} on {d.device}", f"{d.max_abs:.1e}", f"{d.equal_argmax:.3%}")
            lines.append(f"| {' | '.join(cells)} | {d.different_words} | {'ok' if d.passed else d.told()} |")
    lines += ["", "| training | audio hours per hour | waiting for data |", "|---|---|---|"]
    for name in done:
        if name.startswith("training"):
            speed = f"{done[name]['audio_hours_per_hour']:.0f} | {done[name]['data_wait']:.1%}"
            lines.append(f"| {name.removeprefix('training ')} | {speed} |")
    for kind, size in (("throughput", "batch"), ("latency", "streams")):
        lines += [
            "",
            f"| {kind} | {size} × seconds | p50 ms | p98 ms | runs | times real time |",
            "|---|---|---|---|---|---|",
        ]
        for name in done:
            for row in done[name] if name.startswith(kind) else ():
                cell = f"| {name.removeprefix(kind + ' ')} | {row[size]} × {row['seconds']:g} | "
                if "reason" in row:
                    lines.append(f"{cell}{row['reason']} | | | |")
                else:
                    p98 = "" if row["p98"] is None else f"{row['p98']:.2f}"
                    lines.append(f"{cell}{row['p50']:.2f} | {p98} | {row['runs']} | {row['rtfx']:.0f} |")
    failed = [f"- {name}: {step['reason']}" for name, step in report["steps"].items() if not step["ok"]]
    return "\n".join([*lines, "", "## Not done", "", *(failed or ["Nothing: all steps ran."])]) + "\n"


@app.command()
def run(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    out: Annotated[Path, typer.Option(help="Folder for gpu-check.json and gpu-check.md.")],
    data: Annotated[Path | None, typer.Option(help="What `pack` wrote.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Recordings at once; usually 1, 8, 16.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each of them.")] = 10.0,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Streams at once; usually 1, 8, 32.")] = None,
    train: Annotated[list[str] | None, typer.Option(metavar="RECIPE", help="Trainings to time an epoch of.")] = None,
    device: Annotated[str, typer.Option(metavar="cuda:N")] = "cuda:0",
    minutes: Annotated[float, typer.Option(help="No step lasts beyond that.")] = 8.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="On the CPU.")] = False,
) -> None:
    """Check everything there is on this machine."""
    if train and not data:
        raise typer.BadParameter("--train learns from what --data names: give both.")
    out, data = out.resolve(), data and data.resolve()
    out.mkdir(parents=True, exist_ok=True)
    copies = []
    for name in models:  # engines go into copies, so that a bundled model stays as it is
        copies.append(out / "models" / open_model(name).path.name)
        shutil.copytree(open_model(name).path, copies[-1], dirs_exist_ok=True)
    batches, together = batch or [1, 8, 16], streams or [1, 8, 32]
    check = Check(list(map(str, copies)), data, out, "cpu" if dry_run else device, minutes)
    check.report |= {"machine": machine(), "gpu": ", ".join(map(str, gpus())) or "no GPU"}
    check.build(batches, together)
    check.step("tests", check.test)
    check.measure(together, streams=True, seconds=seconds)
    check.compare()
    check.measure(batches, streams=False, seconds=seconds)
    check.train(train or [], 1 if dry_run else TIMES_HEARD)
    print(f"Wrote {out / 'gpu-check.json'} and {out / 'gpu-check.md'}.")


if __name__ == "__main__":
    app()
