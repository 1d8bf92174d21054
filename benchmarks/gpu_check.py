"""Everything that only a GPU can show, in one unattended run: engines, tests, parity, error rates, speed.

    python benchmarks/gpu_check.py pack --data $DS2_DATA --out subset       # on any machine: at most 30 MiB of audio
    python benchmarks/gpu_check.py run MODEL... --data subset --out report [--wheels DIR] [--device cuda:0] [--dry-run]

MODEL is a model folder (with FP16 graphs where `ds2 export` wrote them) or a bundled name. Every step goes on past
what fails and says why; after --minutes no further step begins. --wheels installs from a folder, without a network.
--dry-run takes the CPU, to see that all of it works. Writes OUT/gpu-check.json and OUT/gpu-check.md.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from machine import machine

from ds2_deploy.audio.load import load_audio
from ds2_deploy.model_folder import PRECISIONS, ModelFolder, graph_file, open_model
from ds2_deploy.runtime import BACKENDS, open_backend, open_stream_backend
from ds2_deploy.runtime.gpu import gpus
from training.manifest import read_manifest

ROOT = Path(__file__).parent.parent
PACKED = {"an4/test.jsonl": 130, "digits/test.jsonl": 100, "librispeech-mini/valid.jsonl": 40}
"""Utterances taken from each manifest."""
LARGEST_PACK = 30 << 20
SHAPES = ((1, 3), (1, 10), (8, 3), (16, 10))
"""Batch and seconds of the throughput table."""
STREAMS = (1, 8, 32)
RUNS = 30
SHAPE_LIMIT_S = 4
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


class Check:
    """The steps of one run and what became of them."""

    def __init__(self, models: list[str], data: Path | None, device: str, minutes: float) -> None:
        self.models, self.data, self.device = [open_model(name) for name in models], data, device
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
        print(f"{name}: {'ok' if result['ok'] else result['reason']} ({result['seconds']} s)", flush=True)

    def ds2(self, *arguments: str) -> str:
        """A command's output; RuntimeError with its last line where it fails."""
        call = [sys.executable, "-m", "ds2_deploy", *arguments]
        done = subprocess.run(call, capture_output=True, text=True, timeout=STEP_LIMIT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        return done.stdout

    def graphs(self) -> Iterator[tuple[ModelFolder, str, bool]]:
        """Every model's graphs: folder, precision, whether of a stream."""
        for model in self.models:
            for stream in (False, True):
                for precision in PRECISIONS:
                    if (model.path / graph_file(precision, stream=stream)).exists():
                        yield model, precision, stream

    def build(self) -> None:
        for model, precision, stream in self.graphs():
            flags = [*(["--fp16"] if precision == "fp16" else []), *(["--stream"] if stream else [])]
            name = f"build {model.path.name} {' '.join(flags)}".strip()
            self.step(name, lambda f=flags, m=model: self.ds2("build-engine", str(m.path), "--rebuild", *f).strip())

    def test(self) -> str:
        call = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-m", "gpu", "tests/gpu"]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=STEP_LIMIT_S, check=False)
        last: str = (done.stdout or done.stderr).strip().splitlines()[-1]
        if done.returncode:
            raise RuntimeError(last)
        return last

    def compare(self) -> None:
        manifests = sorted(self.data.rglob("*.jsonl")) if self.data else []
        for model in self.models:
            call = ("parity", str(model.path), *map(str, manifests[:1]), "--json")
            self.step(f"parity {model.path.name}", lambda c=call: json.loads(self.ds2(*c)))
        for model in self.models:
            for manifest in manifests:
                for backend in BACKENDS:
                    for precision in [p for m, p, stream in self.graphs() if m is model and not stream]:
                        if backend == "torch" and precision != "fp32":
                            continue
                        call = ("--backend", backend, "--precision", precision, "--device", self.device, "--json")
                        self.step(
                            f"WER {model.path.name} {manifest.parent.name} {backend} {precision}",
                            lambda m=model, f=manifest, c=call: json.loads(
                                self.ds2("evaluate", str(m.path), str(f), *c)
                            ),
                        )

    def measure(self, *, streams: bool) -> None:
        for model, precision, stream in self.graphs():
            if stream != streams:
                continue
            for backend in BACKENDS if precision == "fp32" else [name for name in BACKENDS if name != "torch"]:
                kind = "latency" if stream else "throughput"
                self.step(
                    f"{kind} {model.path.name} {backend} {precision}",
                    lambda m=model, b=backend, p=precision, s=stream: list(
                        self.steps_of(m, b, p) if s else self.runs_of(m, b, p)
                    ),
                )

    def runs_of(self, model: ModelFolder, name: str, precision: Any) -> Iterator[Row]:
        """Medians of whole batches, copies included."""
        backend = open_backend(name, model, device=self.device, precision=precision)
        rate = model.metadata.feature.sample_rate
        for batch, seconds in SHAPES:
            audio = np.random.default_rng(0).standard_normal((batch, seconds * rate)).astype(np.float32) * 0.1
            times = timed(lambda a=audio: backend.run(a, np.full(len(a), a.shape[1], np.int64)), self.end)
            median = statistics.median(times)
            yield {"batch": batch, "seconds": seconds, "ms": 1000 * median, "rtfx": batch * seconds / median}

    def steps_of(self, model: ModelFolder, name: str, precision: Any) -> Iterator[Row]:
        """A chunk of each of several streams, from samples to log-probabilities."""
        backend = open_stream_backend(name, model, device=self.device, precision=precision)
        for batch in STREAMS:
            audio = np.zeros((batch, backend.chunk_samples), np.float32)
            lengths, state = np.full(batch, backend.chunk_samples, np.int64), backend.initial_state(batch)
            times = timed(lambda a=audio, n=lengths, s=state: backend.step(a, n, s), self.end)
            yield {"streams": batch, "ms": 1000 * statistics.median(times), "p98_ms": 1000 * np.quantile(times, 0.98)}


def timed(run: Callable[[], Any], end: float) -> list[float]:
    """Seconds of RUNS calls after two that warm up; fewer where they are slow or the time is over."""
    for _ in range(2):
        run()
    times: list[float] = []
    end = min(end, time.monotonic() + SHAPE_LIMIT_S)
    while len(times) < RUNS and (not times or time.monotonic() < end):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def markdown(report: dict[str, Any]) -> str:
    """Tables of what was measured, and a list of what was not, with reasons."""
    done = {name: step["result"] for name, step in report["steps"].items() if step["ok"]}
    lines = [f"# GPU check on {report['gpu']}", "", f"{report['machine']['python']}, device {report['device']}", ""]
    lines += ["| engine or test | |", "|---|---|"]
    lines += [f"| {name} | {done[name]} |" for name in done if name.startswith(("build", "tests", "wheels"))]
    lines += ["", "| WER | words | |", "|---|---|---|"]
    for name in done:
        if name.startswith("WER"):
            lines.append(f"| {name[4:]} | {done[name]['words']} | {done[name]['wer']:.2%} |")
    lines += ["", "| parity | backend | max abs | equal labels | words apart |", "|---|---|---|---|---|"]
    for name in done:
        for d in done[name]["differences"] if name.startswith("parity") else ():
            backend = f"{d['backend']} {d['precision']}"
            equal = f"{d['equal_argmax']:.3%}"
            lines.append(f"| {name[7:]} | {backend} | {d['max_abs']:.1e} | {equal} | {d['different_words']} |")
    lines += ["", "| throughput | batch × seconds | ms | times real time |", "|---|---|---|---|"]
    for name in done:
        for row in done[name] if name.startswith("throughput") else ():
            size = f"{row['batch']} × {row['seconds']}"
            lines.append(f"| {name[11:]} | {size} | {row['ms']:.2f} | {row['rtfx']:.0f} |")
    lines += ["", "| latency of a chunk | streams | p50 ms | p98 ms |", "|---|---|---|---|"]
    for name in done:
        for row in done[name] if name.startswith("latency") else ():
            lines.append(f"| {name[8:]} | {row['streams']} | {row['ms']:.2f} | {row['p98_ms']:.2f} |")
    failed = [f"- {name}: {step['reason']}" for name, step in report["steps"].items() if not step["ok"]]
    return "\n".join([*lines, "", "## Not done", "", *(failed or ["Nothing: all steps ran."])]) + "\n"


@app.command()
def run(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    out: Annotated[Path, typer.Option(help="Folder for gpu-check.json and gpu-check.md.")],
    data: Annotated[Path | None, typer.Option(help="What `pack` wrote.")] = None,
    wheels: Annotated[Path | None, typer.Option(help="A folder of wheels to install first.")] = None,
    device: Annotated[str, typer.Option(metavar="cuda:N")] = "cuda:0",
    minutes: Annotated[float, typer.Option(help="No step begins after that.")] = 8.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="On the CPU.")] = False,
) -> None:
    """Check everything there is on this machine."""
    out.mkdir(parents=True, exist_ok=True)
    copies = []
    for name in models:  # engines go into copies, so that a bundled model stays as it is
        copies.append(out / "models" / open_model(name).path.name)
        shutil.copytree(open_model(name).path, copies[-1], dirs_exist_ok=True)
    check = Check(list(map(str, copies)), data, "cpu" if dry_run else device, minutes)
    check.report |= {"machine": machine(), "gpu": ", ".join(map(str, gpus())) or "no GPU"}
    if wheels:
        install = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels), "--no-deps"]
        for wheel in sorted(wheels.glob("*.whl")):
            call = [*install, str(wheel)]
            check.step(
                f"wheels {wheel.name}", lambda c=call: subprocess.run(c, check=True, timeout=STEP_LIMIT_S) and ""
            )
    check.build()
    check.step("tests", check.test)
    check.measure(streams=True)
    check.compare()
    check.measure(streams=False)
    (out / "gpu-check.json").write_text(json.dumps(check.report, indent=1, default=float))
    (out / "gpu-check.md").write_text(markdown(check.report))
    print(f"Wrote {out / 'gpu-check.json'} and {out / 'gpu-check.md'}.")


if __name__ == "__main__":
    app()
