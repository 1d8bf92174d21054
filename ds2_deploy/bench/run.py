"""A report from the question to the last check."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds2_deploy.bench import checks, environment, measure
from ds2_deploy.bench.measure import Bench
from ds2_deploy.bench.plan import Plan, Sound, generated_sound, real_sound
from ds2_deploy.bench.report import Report, Row
from ds2_deploy.bench.worker import Remote, Spec
from ds2_deploy.errors import BackendUnavailableError, BenchError, DS2Error, ModelError
from ds2_deploy.model_folder import ModelFolder, Precision, open_model
from ds2_deploy.runtime import NOT_HERE
from ds2_deploy.runtime.bench_choice import Work, machine_name
from ds2_deploy.runtime.lineup import open_all

REFERENCES = (("torch", "fp32"), ("onnxruntime", "fp32"))
"""What outputs are compared with: the first of these that takes part, else whoever comes first."""


class Asked(NamedTuple):
    """By the caller."""

    model: str
    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    device: str
    threads: int
    audio: Path | None
    recordings: int
    command: str


def run(asked: Asked, plan: Plan, tell: Callable[[str], None]) -> tuple[Report, BaseException | None]:
    """The report, and what ended it before its time, if anything did: then it is marked as partial."""
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    folder = open_model(asked.model)
    rate = folder.metadata.feature.sample_rate
    language = folder.metadata.language
    sound = real_sound(asked.audio, rate, asked.recordings, language) if asked.audio else generated_sound(rate)
    start = environment.changing()
    rows: list[Row] = []
    during: list[dict[str, Any]] = []
    ended: BaseException | None = None
    with ExitStack() as stack:
        longest_s = plan.longest_s([len(samples) / rate for samples in sound.samples])
        offline, streams, not_run = _open(asked, folder, plan, longest_s, stack, tell)
        bench = Bench(plan, sound, folder.metadata, offline, streams, tell)
        try:
            for row in measure.rows(bench):
                if not rows or rows[-1].cell != row.cell:
                    during.append(environment.changing())
                rows.append(row)
        except (KeyboardInterrupt, DS2Error, MemoryError) as error:
            ended = error
    tell("")
    if not rows:
        raise ended or BenchError("Nothing was measured: utterances are measured from files, so give --audio.")
    failed = checks.failed(rows)
    trusted = not (ended or failed) and asked.device == "auto"
    remotes = [*offline, *streams]
    report = Report(
        machine=machine_name(),
        fastest={work: found for work, found in fastest(rows).items() if trusted and len(found) > 1},
        model=asked.model,
        command=asked.command,
        started=started,
        seconds=time.perf_counter() - began,
        partial=ended is not None,
        audio=f"{sound.source}, {len(sound.samples)} recordings of {_mean_s(sound, rate):.1f} s on average",
        reference=remotes[0].spec.name,
        environment={**environment.fixed(folder, asked.threads), "start": start, "during": during},
        loaded=[remote.loaded for remote in remotes],
        not_run=not_run,
        rows=rows,
        weaknesses=checks.weaknesses(
            rows, recordings=len(sound.paths), start=start, during=during, ended=_why(ended) if ended else None
        ),
        failed_checks=failed,
    )
    return report, ended


def _why(ended: BaseException) -> str:
    if isinstance(ended, KeyboardInterrupt):
        return "interrupted."
    return str(ended) if isinstance(ended, DS2Error) else f"out of memory ({ended})."


def _mean_s(sound: Sound, rate: int) -> float:
    return float(np.mean([len(samples) for samples in sound.samples])) / rate


def _open(
    asked: Asked, folder: ModelFolder, plan: Plan, longest_s: float, stack: ExitStack, tell: Callable[[str], None]
) -> tuple[list[Remote], list[Remote], dict[str, str]]:
    """Workers for whole recordings and for streams, references first; who cannot take part, and why."""
    works = [stream for stream in (False, True) if _is_wanted(plan, folder, stream=stream)]
    if not works:
        raise BenchError(f"Nothing can be measured: {asked.model} has none of the workloads asked for.")

    def open_one(name: str, precision: Precision, stream: bool) -> Remote:
        spec = Spec(str(folder.path), name, precision, asked.device, asked.threads, stream)
        tell(f"loading {spec.name}")
        remote = _loaded(spec, longest_s, folder.metadata.feature.sample_rate)
        stack.callback(remote.close)
        return remote

    remotes, refused = open_all(
        open_one, folder, asked.backends, device=asked.device, precisions=asked.precisions, works=works,
        excuses=(*NOT_HERE, ModelError, BenchError),  # the last, where its process crashed
    )  # fmt: skip
    not_run = {name: str(error) for name, error in refused.items()}
    if not remotes:
        reasons = "; ".join(f"{name}: {why}" for name, why in not_run.items()) or "no graph of the precision asked for"
        raise BackendUnavailableError(f"No backend can run {asked.model} here: {reasons}")
    if "stream" in plan.workloads and True not in works:
        not_run["streams"] = f"{asked.model} cannot stream"
    offline, streams = ([one for one in remotes if one.spec.stream == stream] for stream in (False, True))
    return _references_first(offline), _references_first(streams), not_run


def _loaded(spec: Spec, longest_s: float, rate: int) -> Remote:
    """Ready to run; BackendUnavailableError where it does not take recordings of `longest_s`, as some engines."""
    remote = Remote(spec)
    most = remote.loaded.max_samples
    if most is not None and most < round(longest_s * rate):
        remote.close()
        raise BackendUnavailableError(
            f"It takes {most / rate:g} s in one piece, and the longest recording here has {longest_s:.1f}: build an "
            "engine for that with ds2 build-engine --seconds, or measure shorter ones."
        )
    return remote


def _is_wanted(plan: Plan, folder: ModelFolder, *, stream: bool) -> bool:
    if stream:
        return "stream" in plan.workloads and not folder.metadata.streaming_obstacles
    return any(name != "stream" for name in plan.workloads)


def _references_first(remotes: list[Remote]) -> list[Remote]:
    order = {f"{name} {precision}": i for i, (name, precision) in enumerate(REFERENCES)}
    return sorted(remotes, key=lambda remote: order.get(remote.spec.name, len(order)))


def fastest(rows: Sequence[Row]) -> dict[Work, list[str]]:
    """By the geometric mean of the medians of the cells that all have, in fp32, which is what `auto` runs; for each
    second of sound, since steps of streams differ."""
    works: dict[Work, tuple[str, ...]] = {"offline": ("batch", "utterance"), "stream": ("stream",)}
    return {work: _by_speed([row for row in rows if row.workload in names]) for work, names in works.items()}


def _by_speed(rows: Sequence[Row]) -> list[str]:
    times: dict[str, list[float]] = {}
    for row in rows:
        if row.precision == "fp32":
            times.setdefault(row.backend, []).append(np.log(row.latency.p50 / row.audio_s))
    most = max(map(len, times.values()), default=0)
    complete = {name: float(np.mean(logs)) for name, logs in times.items() if len(logs) == most}
    return sorted(complete, key=complete.__getitem__)
