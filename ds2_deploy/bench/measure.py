"""Through the plan, cell by cell, with the backends taking turns within each, so that whatever the machine does
meanwhile hits all alike."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ds2_deploy.bench import plan as planning
from ds2_deploy.bench.load_test import Served, poisson
from ds2_deploy.bench.plan import Plan, Sound
from ds2_deploy.bench.report import Row
from ds2_deploy.bench.stats import Latency
from ds2_deploy.bench.worker import Inputs, Remote, Timed, TimedUtterance
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.metrics import Errors
from ds2_deploy.text.languages import language_named, respelled

Tell = Callable[[str], None]
Frames = npt.NDArray[np.float32]


class Bench(NamedTuple):
    """Who takes part; the first offline and the first stream worker are the references."""

    plan: Plan
    sound: Sound
    metadata: ModelMetadata
    offline: list[Remote]
    streams: list[Remote]
    tell: Tell
    """What is about to be measured."""

    @property
    def rate(self) -> int:
        return self.metadata.feature.sample_rate


def rows(bench: Bench) -> Iterator[Row]:
    """All of the report, each as soon as it is measured."""
    alone_ms: float | None = None
    if bench.offline:
        if "utterance" in bench.plan.workloads:
            found = _utterances(bench)
            alone_ms = found[0].latency.mean if found else None
            yield from found
        if "batch" in bench.plan.workloads:
            for seconds in bench.plan.seconds:
                for batch in bench.plan.batches:
                    yield from _batch(bench, batch, seconds)
        if "load" in bench.plan.workloads:
            for share, rate in _rates(bench, alone_ms):
                yield from _load(bench, share, rate)
    if bench.streams and "stream" in bench.plan.workloads:
        for streams in bench.plan.streams:
            yield from _streams(bench, streams)


def _batch(bench: Bench, batch: int, seconds: float) -> list[Row]:
    bench.tell(f"{batch} × {seconds:g} s")
    inputs = planning.cut(bench.sound.samples, batch, round(seconds * bench.rate))
    shape: dict[str, Any] = {"workload": "batch", "batch": batch, "audio_s": seconds}
    return _timed(bench, bench.offline, inputs, shape)


def _streams(bench: Bench, streams: int) -> list[Row]:
    bench.tell(f"{streams} streams")
    found: list[Row] = []
    for chunk in sorted({remote.loaded.chunk_samples or 0 for remote in bench.streams}):
        alike = [remote for remote in bench.streams if remote.loaded.chunk_samples == chunk]
        inputs = planning.chunks(bench.sound.samples, streams, chunk, bench.rate)
        shape: dict[str, Any] = {"workload": "stream", "batch": streams, "audio_s": chunk / bench.rate}
        found += _timed(bench, alike, inputs, shape)
    return found


def _timed(bench: Bench, remotes: list[Remote], inputs: Inputs, shape: dict[str, Any]) -> list[Row]:
    """The same inputs again and again."""
    by_name = {remote.spec.name: remote for remote in remotes}
    frames: dict[str, Frames] = {name: remote.ask("prepare", inputs) for name, remote in by_name.items()}
    warm: dict[str, tuple[int, bool]] = {name: remote.ask("warm_up") for name, remote in by_name.items()}
    timed: dict[str, list[Timed]] = {name: [] for name in by_name}
    for order in planning.in_turns(list(by_name), bench.plan.rounds):
        for name in order:
            timed[name].append(by_name[name].ask("runs", bench.plan.cell_s / bench.plan.rounds))
    first = frames[remotes[0].spec.name]
    found = []
    for name, parts in timed.items():
        rounds_ms = [part.runs_ms for part in parts]
        count, wall_s = sum(map(len, rounds_ms)), sum(part.wall_s for part in parts)
        latency = Latency.of(rounds_ms)
        found.append(
            Row(
                **shape,
                **_who(by_name[name]),
                padding=0.0,
                warm_up=warm[name][0],
                settled=warm[name][1],
                runs=count,
                latency=latency,
                runs_ms=_rounded(rounds_ms),
                stages=_stages(parts) or {"model": latency.mean},
                utterances_per_s=shape["batch"] * count / wall_s,
                rtfx=shape["batch"] * shape["audio_s"] * count / wall_s,
                wall_s=wall_s,
                host_mb=max(part.host_mb for part in parts),
                device_mb=_most(part.device_mb for part in parts),
                max_abs=_apart(first, frames[name]),
                wrong_outputs=sum(part.wrong for part in parts),
            )
        )
    return found


def _stages(parts: list[Timed]) -> dict[str, float]:
    names = {name for part in parts for name in part.stages}
    return {name: float(np.mean([ms for part in parts for ms in part.stages[name]])) for name in sorted(names)}


def _apart(reference: Frames, other: Frames) -> float | None:
    """Greatest difference, None of the reference from itself; what is no number or not there is infinitely far."""
    if not np.isfinite(other).all() or reference.shape != other.shape:
        return float("inf")
    return None if other is reference else float(np.abs(reference - other).max(initial=0.0))


def _utterances(bench: Bench) -> list[Row]:
    """Alone, one after the other, from file to text; the first pass warms up."""
    bench.tell("utterances")
    paths = bench.sound.paths
    if not paths:
        return []
    by_name = {remote.spec.name: remote for remote in bench.offline}
    passes: dict[str, list[tuple[list[TimedUtterance], float, float, float | None]]] = {name: [] for name in by_name}
    for remote in bench.offline:
        remote.ask("utterances", paths)
    for order in planning.in_turns(list(by_name), bench.plan.rounds):
        for name in order:
            passes[name].append(by_name[name].ask("utterances", paths))
    reference = [utterance.text for utterance in passes[bench.offline[0].spec.name][0][0]]
    return [_utterance_row(bench, by_name[name], found, reference) for name, found in passes.items()]


def _utterance_row(bench: Bench, remote: Remote, passes: list[Any], reference: list[str]) -> Row:
    told: list[TimedUtterance] = [utterance for found, *_ in passes for utterance in found]
    rounds_ms = [[utterance.whole_ms for utterance in found] for found, *_ in passes]
    wall_s = sum(wall for _, wall, *_ in passes)
    wer, own = _wer(bench, reference), _wer(bench, [utterance.text for utterance in passes[0][0]])
    return Row(
        workload="utterance",
        **_who(remote),
        batch=1,
        audio_s=round(float(np.mean([u.seconds for u in told])), 3),
        padding=0.0,
        warm_up=len(bench.sound.paths),
        runs=len(told),
        latency=Latency.of(rounds_ms, same_work=True),
        runs_ms=_rounded(rounds_ms),
        stages={part: float(np.mean([getattr(u, f"{part}_ms") for u in told])) for part in ("audio", "model", "text")},
        utterances_per_s=len(told) / wall_s,
        rtfx=sum(u.seconds for u in told) / wall_s,
        wall_s=wall_s,
        host_mb=max(host for _, _, host, _ in passes),
        device_mb=_most(device for *_, device in passes),
        wer=own,
        wer_difference=None if own is None or wer is None else own - wer,
        max_abs=None if all(u.finite for u in told) else float("inf"),
        wrong_outputs=sum(u.text != passes[0][0][i].text for found, *_ in passes for i, u in enumerate(found)),
    )


def _wer(bench: Bench, heard: list[str]) -> float | None:
    """In the language's own metric; None where nobody wrote down what is said."""
    language = bench.metadata.language
    pairs = [(text, respelled(said, language)) for text, said in zip(bench.sound.texts, heard, strict=True) if text]
    if not pairs:
        return None
    total = Errors.total(Errors.between(text, said) for text, said in pairs)
    return total.rate(language_named(language).metric)


def _rates(bench: Bench, alone_ms: float | None) -> list[tuple[float | None, float]]:
    """Shares of what the reference serves one by one, and arrivals per second."""
    if bench.plan.rate is not None:
        return [(None, bench.plan.rate)]
    if alone_ms is None:  # not measured from files: by the sound in memory
        remote, samples = bench.offline[0], bench.sound.samples
        test = poisson(1000.0, 0.02, len(samples), 1, planning.SEED)  # some twenty at once, heard one by one
        served: Served = remote.ask("load_test", samples, test)[0]
        alone_ms = float(np.mean(served.model_ms) + np.mean(served.text_ms))
    return [(load, float(f"{1000 * load / alone_ms:.3g}")) for load in bench.plan.loads]


def _load(bench: Bench, share: float | None, rate: float) -> list[Row]:
    bench.tell(f"{rate:.3g} arrivals/s")
    samples = bench.sound.samples
    test = poisson(rate, bench.plan.load_s, len(samples), planning.MOST_TOGETHER, planning.SEED)
    found = []
    for remote in bench.offline:
        served, wrong, host_mb, device_mb = remote.ask("load_test", samples, test)
        row = _load_row(bench, remote, rate, test.numbers, served)
        measured = {"share": share, "host_mb": host_mb, "device_mb": device_mb, "wrong_outputs": wrong}
        found.append(msgspec.structs.replace(row, **measured))
    return found


def _load_row(bench: Bench, remote: Remote, rate: float, numbers: list[int], s: Served) -> Row:
    done = len(s.latencies_ms) - s.lost
    periods_ms = [s.latencies_ms[first:last] for first, last in pairwise([*s.begins, len(s.latencies_ms)])]
    seconds = [len(bench.sound.samples[n]) / bench.rate for n in numbers]
    stages = {"wait": s.waits_ms, "model": s.model_ms, "text": s.text_ms}
    return Row(
        workload="load",
        **_who(remote),
        batch=planning.MOST_TOGETHER,
        audio_s=round(float(np.mean(seconds)), 3),
        offered=rate,
        padding=s.padding,
        warm_up=2,
        runs=len(s.latencies_ms),
        latency=Latency.of(periods_ms, independent=len(periods_ms), complete=not s.lost),
        runs_ms=_rounded(periods_ms),
        stages={name: float(np.mean(values)) for name, values in stages.items()},
        utterances_per_s=done / s.wall_s,
        rtfx=sum(seconds[:done]) / s.wall_s,
        wall_s=s.wall_s,
        in_system=s.in_system,
        lost=s.lost,
        max_abs=None if s.finite else float("inf"),
        host_mb=0.0,
    )


def _who(remote: Remote) -> dict[str, Any]:
    return {"backend": remote.spec.backend, "precision": remote.spec.precision, "device": remote.loaded.device}


def _most(readings: Iterable[float | None]) -> float | None:
    """None where nothing could be read."""
    return max((reading for reading in readings if reading is not None), default=None)


def _rounded(rounds_ms: list[list[float]]) -> list[list[float]]:
    return [[round(value, 4) for value in part] for part in rounds_ms]
