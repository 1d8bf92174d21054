"""ds2 bench: claims about latencies against known distributions, reports that contradict themselves, the command."""

import json
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

from ds2_deploy.bench import checks, measure, plan, stats
from ds2_deploy.bench import run as run_module
from ds2_deploy.bench.compare import compare
from ds2_deploy.bench.load_test import LoadTest, Served, poisson, serve
from ds2_deploy.bench.page import page
from ds2_deploy.bench.plan import real_sound
from ds2_deploy.bench.report import Loaded, Report, Row
from ds2_deploy.bench.run import Asked, fastest, run
from ds2_deploy.bench.stats import Latency, paired_interval, ratio_interval, runs_needed
from ds2_deploy.bench.tables import COLUMNS, comma_separated, markdown
from ds2_deploy.bench.worker import Remote, Spec
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.errors import BackendUnavailableError, BenchError, ManifestError
from ds2_deploy.runtime.bench_choice import in_order
from ds2_deploy.runtime.protocol import Emissions
from ds2_deploy.structs import INFINITE
from ds2_deploy.text.alphabet import ENGLISH
from tests.conftest import ConvModel, Ds2, noise


def in_rounds(runs_ms: list[float], size: int = 10) -> list[list[float]]:
    return [runs_ms[i : i + size] for i in range(0, len(runs_ms), size)]


def row(runs_ms: list[float], **fields: Any) -> Row:
    """A batch of four, of two seconds each, without contradictions."""
    wall_s = sum(runs_ms) / 1000
    whole: dict[str, Any] = {
        "workload": "batch", "backend": "onnxruntime", "precision": "fp32", "device": "cpu", "batch": 4, "audio_s": 2.0,
        "padding": 0.0, "warm_up": 6, "runs": len(runs_ms), "latency": Latency.of(in_rounds(runs_ms)),
        "runs_ms": in_rounds(runs_ms),
        "stages": {"model": float(np.mean(runs_ms))}, "utterances_per_s": 4 * len(runs_ms) / wall_s,
        "rtfx": 8 * len(runs_ms) / wall_s, "wall_s": wall_s, "host_mb": 100.0,
    }  # fmt: skip
    return Row(**(whole | fields))


def report(rows: list[Row], **fields: Any) -> Report:
    whole: dict[str, Any] = {
        "machine": "M", "fastest": {"offline": ["torch"]}, "model": "m", "command": "ds2 bench m", "started": "now",
        "seconds": 1.0, "partial": False, "audio": "generated", "reference": "torch fp32",
        "environment": {"cores": 2, "packages": {"numpy": "1"}}, "not_run": {"tensorrt fp32": "no GPU"}, "rows": rows,
        "loaded": [
            Loaded(
                backend="onnxruntime", precision="fp32", device="cpu", runtime="onnxruntime 1", stream=False,
                chunk_samples=None, file_mb=10.0, load_s=0.1, build_s=None, host_mb=90.0,
            )
        ],
        "weaknesses": [], "failed_checks": [],
    }  # fmt: skip
    return Report(**(whole | fields))


def exponential(count: int, mean: float = 10.0, seed: int = 0) -> list[float]:
    runs: list[float] = np.random.default_rng(seed).exponential(mean, count).tolist()
    return runs


@pytest.mark.parametrize("p", [50, 90, 95, 98, 99])
def test_as_many_runs_as_needed_bound_a_percentile_nineteen_times_in_twenty(p: int) -> None:
    truth, rng = -math.log(1 - p / 100), np.random.default_rng(p)  # of the exponential distribution
    for count, least, most in ((runs_needed(p), 0.94, 1.0), (runs_needed(p) - 1, 0.0, 0.955)):
        largest = rng.exponential(1.0, (20_000, count)).max(axis=1)
        assert least <= (largest >= truth).mean() <= most


def test_percentiles_that_take_more_runs_are_not_claimed() -> None:
    few, many = Latency.of([exponential(58)]), Latency.of([exponential(300)])
    assert (few.p90 is None, few.p95, few.p98, few.p99) == (False, None, None, None)
    assert many.p99 == pytest.approx(np.percentile(exponential(300), 99))
    shown = markdown(report([row(exponential(58))]))
    assert "≥ 59 runs | ≥ 149 runs | ≥ 299 runs" in shown


def with_drift(seed: int, change: float = 1.0, rounds: int = 8) -> list[list[float]]:
    """Rounds that are slower or faster as a whole, as those of a shared machine."""
    rng = np.random.default_rng(seed)
    return [(change * 10.0 * rng.lognormal(0, 0.1) * rng.lognormal(0, 0.02, 30)).tolist() for _ in range(rounds)]


def test_intervals_hold_the_truth_also_where_rounds_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a round all runs share what the machine did: as independent runs they would promise too much."""
    monkeypatch.setattr(stats, "RESAMPLES", 200)
    drifting = [with_drift(seed) for seed in range(60)]
    assert sum(latency.p50_low <= 10.0 <= latency.p50_high for latency in map(Latency.of, drifting)) >= 48
    mixed_up = [Latency.of([[ms for part in rounds for ms in part]]) for rounds in drifting]
    assert sum(latency.p50_low <= 10.0 <= latency.p50_high for latency in mixed_up) < 30
    same = [ratio_interval(with_drift(seed), with_drift(1000 + seed)) for seed in range(40)]
    assert sum(low <= 1 <= high for _, low, high in same) >= 33
    ratio, low, high = ratio_interval(with_drift(0), with_drift(1, 2.0))
    assert 1.5 < low < ratio < high < 2.6


def test_recordings_of_any_length_are_compared_with_themselves() -> None:
    lengths = np.random.default_rng(0).uniform(5, 100, 20)
    rng = np.random.default_rng(1)
    before = [(lengths * rng.normal(1, 0.02, 20)).tolist() for _ in range(5)]
    after = [(1.15 * lengths * rng.normal(1, 0.02, 20)).tolist() for _ in range(5)]
    ratio, low, high = paired_interval(before, after)
    assert 1.12 < low < ratio < high < 1.18
    assert ratio_interval(before, after)[1] < 1.1  # runs mixed up say much less


def test_turns_that_were_slow_as_a_whole_are_no_slower_model() -> None:
    """Of one recording as of many: what was the machine's is in the interval."""
    rng = np.random.default_rng(2)

    def turns(lengths: npt.NDArray[np.float64]) -> list[list[float]]:
        machine = rng.lognormal(0, 0.05, (5, 1))
        return (lengths * machine * rng.lognormal(0, 0.02, (5, len(lengths)))).tolist()

    for count in (1, 40):
        found = [paired_interval(turns(lengths), turns(lengths)) for lengths in rng.lognormal(3, 0.6, (60, count))]
        assert sum(low <= 1 <= high for _, low, high in found) >= 54
        assert sum(ratio > 1 < low for ratio, low, _ in found) <= 4


def test_recordings_heard_again_are_not_more_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 200)
    rng, within = np.random.default_rng(3), 0
    for _ in range(60):
        lengths = rng.lognormal(0, 0.6, 40)  # of median 1, and so all together
        latency = Latency.of((lengths * rng.lognormal(0, 0.02, (5, 40))).tolist(), same_work=True)
        assert (latency.p90 is None, latency.p95) == (False, None)  # 200 runs, but of 40 recordings
        within += latency.p50_low <= 1 <= latency.p50_high
    assert within >= 54


def test_requests_that_wait_for_each_other_are_not_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes 20 ms, or 12 more for each further request, at four fifths of its rate."""
    monkeypatch.setattr(stats, "RESAMPLES", 200)
    rng = np.random.default_rng(4)

    def periods_ms(seconds: float) -> list[list[float]]:
        arrivals = np.sort(rng.uniform(0, seconds, rng.poisson(40 * seconds)))
        found: list[list[float]] = []
        now, served = 0.0, 0
        while served < len(arrivals):
            if arrivals[served] > now:
                now = arrivals[served]
                found.append([])
            count = min(int(np.searchsorted(arrivals, now, side="right")) - served, 16)
            now += 0.020 + 0.012 * (count - 1)
            found[-1] += (1000 * (now - arrivals[served : served + count])).tolist()
            served += count
        return found

    truth = np.percentile(np.concatenate(periods_ms(2000)), [50, 99])
    largest, within = [], 0
    for _ in range(60):
        periods = periods_ms(15)
        latency = Latency.of(periods, independent=len(periods))
        assert latency.p99 is None  # although some 600 requests came
        largest.append(latency.max)
        within += latency.p50_low <= truth[0] <= latency.p50_high
    assert within >= 53
    assert np.mean(np.array(largest) >= truth[1]) < 0.95  # which is why


def test_a_sound_report_contradicts_itself_nowhere() -> None:
    assert checks.failed([row(exponential(100)), row([10.0])]) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"latency": msgspec.structs.replace(Latency.of([exponential(300)]), p90=99.0, p95=50.0)}, "percentiles fall"),
        ({"utterances_per_s": 4.0}, "were in the system"),
        ({"stages": {"model": 1.0, "text": 2.0}}, "the parts add up to"),
        ({"wrong_outputs": 3}, "3 of 100 timed runs gave other labels"),
        ({"max_abs": math.inf}, "not as many"),
        ({"max_abs": math.nan}, "not numbers"),
        ({"max_abs": 0.02}, "0.02 nats from the reference's"),
        ({"max_abs": 0.7, "precision": "fp16"}, "0.7 nats from the reference's"),
    ],
)
def test_contradictions_are_found(fields: dict[str, Any], words: str) -> None:
    [found] = checks.failed([row(exponential(100), **fields)])
    assert words in found
    assert found.startswith("onnxruntime fp")
    assert ", batch, 4 × 2 s: " in found


def test_littles_law_of_a_load_test() -> None:
    runs = exponential(100)
    mean_s = float(np.mean(runs)) / 1000
    load: dict[str, Any] = {"workload": "load", "wall_s": 10.0, "offered": 10.0, "utterances_per_s": 10.0}
    assert checks.failed([row(runs, **load, in_system=10 * mean_s)]) == []
    assert "were in the system" in checks.failed([row(runs, **load, in_system=13 * mean_s)])[0]


def weak(rows: list[Row], start: dict[str, Any] | None = None, end: dict[str, Any] | None = None) -> str:
    return "\n".join(checks.weaknesses(rows, recordings=40, start=start or {}, during=[end or {}], ended=None))


def test_a_report_names_its_weaknesses() -> None:
    steady = [10.0 + 0.01 * (i % 3) for i in range(50)]
    assert weak([row(steady)]) == ""
    assert "noisy" in weak([row(exponential(50))])
    assert "drifted" in weak([row([ms * (1 + i / 100) for i, ms in enumerate(steady)])])
    assert "transfers" in weak([row(steady, stages={"h2d": 6.0, "compute": 2.0, "d2h": 2.0})])
    assert "launches" in weak([row(steady, stages={"compute": 2.0, "enqueue": 2.5})])
    assert "keep up" in weak([row(steady, workload="load", offered=5.0, lost=3)])
    assert "few busy periods" in weak([row(steady, workload="load", offered=5.0)])
    assert "few busy" not in weak([row(steady * 20, workload="load", offered=5.0)])
    assert "keep up" in weak([row(steady, workload="load", offered=5.0, in_system=9.0)])
    assert "warmed up" in weak([row(steady, settled=False)])
    assert "busy" in weak([], {"load_average": 1.5})
    assert "slowed down from 3000 to 2000" in weak([], {"cpu_mhz": 3000.0}, {"cpu_mhz": 2000.0})
    throttled = {"gpus": [{"name": "H200", "clocks_throttle_reasons.active": "0x0000000000000004"}]}
    assert "H200 was throttled" in weak([], {}, throttled)
    assert weak([], {}, {"gpus": [{"name": "H200", "clocks_throttle_reasons.active": "0x0000000000000001"}]}) == ""
    told = checks.weaknesses([], recordings=0, start={}, during=[], ended="interrupted.")
    assert ("interrupted" in told[0], "generated" in told[1]) == (True, True)
    few = checks.weaknesses([row(steady, workload="utterance")], recordings=3, start={}, during=[], ended=None)
    assert "those of 3 recordings" in few[0]


class Clockwork:
    """Takes 4 ms for any batch."""

    name, device, max_samples = "clockwork", "cpu", None

    def run(self, audio: Any, lengths: Any) -> Emissions:
        time.sleep(0.004)
        return Emissions(np.zeros((len(audio), 1, len(ENGLISH)), np.float32), np.ones(len(audio), np.int64))


def test_under_load_batches_grow_and_nobody_is_forgotten() -> None:
    arrivals = poisson(600.0, 1.0, 3, 64, 1)
    assert 480 < len(arrivals.arrivals_s) < 720
    assert len(poisson(0.001, 1.0, 3, 64, 1).arrivals_s) == 1
    gaps = np.diff(poisson(5000.0, 1.0, 1, 1, 2).arrivals_s)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.0, abs=0.05)  # as of exponential gaps
    assert max(arrivals.arrivals_s) < 1.0
    recordings = [noise(100), noise(200), noise(400)]
    served = serve(Clockwork(), GreedyDecoder(ENGLISH), recordings, arrivals)
    assert served.lost == 0
    assert sum(served.batches) == len(served.latencies_ms) == len(arrivals.arrivals_s)
    assert np.mean(served.batches) > 1.5
    assert min(served.latencies_ms) >= 4.0
    assert 0 < served.padding < 0.8
    rate = len(served.latencies_ms) / served.wall_s
    assert served.in_system == pytest.approx(rate * np.mean(served.latencies_ms) / 1000, rel=0.15)
    assert len(served.texts) == len(served.latencies_ms)
    ends = np.array(arrivals.arrivals_s) + np.array(served.latencies_ms) / 1000
    idle = [i for i, at in enumerate(arrivals.arrivals_s) if i and at > ends[:i].max() + 1e-3]
    assert served.begins[0] == 0
    assert set(idle) <= set(served.begins)  # whoever came to a server long without work begins a busy period
    assert all(arrivals.arrivals_s[i] > ends[:i].max() for i in served.begins[1:])


def test_what_is_not_a_number_is_served_as_nothing() -> None:
    class Broken(Clockwork):
        def run(self, *arguments: Any) -> Emissions:
            emissions = super().run(*arguments)
            return emissions._replace(log_probs=np.full_like(emissions.log_probs, np.nan))

    served = serve(Broken(), GreedyDecoder(ENGLISH), [noise(100)], LoadTest([0.001] * 3, [0] * 3, 1))
    assert (served.texts, served.finite) == ([""] * 3, False)


def test_a_server_that_is_too_slow_loses_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds2_deploy.bench.load_test.DRAIN_S", 0.05)
    served = serve(Clockwork(), GreedyDecoder(ENGLISH), [noise(100)], LoadTest([0.001] * 200, [0] * 200, 1))
    assert 0 < served.lost < 200
    assert len(served.waits_ms) == len(served.texts) == 200 - served.lost
    lost_ms = served.latencies_ms[200 - served.lost :]
    assert lost_ms == pytest.approx([1000 * (served.wall_s - 0.001)] * served.lost)
    assert min(lost_ms) >= max(served.latencies_ms) - 1


def test_what_is_lost_counts_among_the_slowest() -> None:
    """Half of the requests are lost; of the others alone the median would be half of what it is at least."""
    latencies_ms = [float(ms) for ms in range(1, 101)] + [100.0] * 100
    periods, stage = [0, *range(1, 200, 2)], [1.0] * 100
    served = Served(
        latencies_ms, stage, stage, stage, ["x"] * 100, [1] * 100, periods, 0.0, 50.0, 10.0, lost=100, finite=True
    )
    spec = Spec("m", "onnxruntime", "fp32", "cpu", 1, stream=False)
    remote: Any = SimpleNamespace(spec=spec, loaded=SimpleNamespace(device="cpu"))
    bench: Any = SimpleNamespace(sound=SimpleNamespace(samples=[noise(16000)]), rate=16000)
    lossy = measure._load_row(bench, remote, 20.0, [0] * 200, served)
    assert (lossy.latency.p50, lossy.latency.mean) == (100.0, pytest.approx(75.25))
    assert (lossy.latency.p90, lossy.latency.p99) == (None, None)  # although there were 101 busy periods
    assert (lossy.runs, lossy.lost, lossy.utterances_per_s, lossy.rtfx) == (200, 100, 10.0, 10.0)
    assert checks.failed([lossy]) == []
    assert "lost requests, so that their latencies are at least what they say" in weak([lossy])
    shown = markdown(report([lossy]))
    assert "| ≥ 75.2 |" in shown
    assert "| 100 lost | 100 lost | 100 lost | 100 lost | ≥ 100 |" in shown
    whole = measure._load_row(bench, remote, 20.0, [0] * 200, served._replace(lost=0))
    assert whole.latency.p90 == 100.0


def test_batches_are_cut_of_the_sound_without_padding() -> None:
    inputs = plan.cut([noise(5), noise(7)], 3, 6)
    joined = np.concatenate([noise(5), noise(7)])
    np.testing.assert_array_equal(inputs.audio.ravel(), np.resize(joined, 18))
    assert inputs.lengths.tolist() == [6, 6, 6]
    pieces = plan.chunks([noise(1000)], 2, 300, 100)
    assert pieces.audio.shape == (2, 2, 300)
    rows = plan.cut([noise(1000)], 2, 600).audio
    np.testing.assert_array_equal(pieces.audio[1, 0], rows[0, 300:])


def test_generated_sound_is_audible_and_always_the_same() -> None:
    first, second = plan.generated_sound(16000), plan.generated_sound(16000)
    for a, b in zip(first.samples, second.samples, strict=True):
        np.testing.assert_array_equal(a, b)
        assert 0.01 < np.sqrt(np.mean(a**2)) < 0.5
        assert np.abs(a).max() <= 1


def test_nobody_is_always_first() -> None:
    orders = list(plan.in_turns(["a", "b", "c"], 6))
    assert {order[0] for order in orders} == {"a", "b", "c"}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_report_survives_its_file_and_follows_the_schema(tmp_path: Path) -> None:
    written = report([row(exponential(40)), row(exponential(40), workload="load", offered=3.0, in_system=0.1)])
    (tmp_path / "bench.json").write_bytes(written.to_json())
    assert Report.read(tmp_path / "bench.json") == written
    schema = Path(plan.__file__).with_name("schema.json")
    assert json.loads(schema.read_text()) == msgspec.json.schema(Report)


@pytest.mark.parametrize("apart", [math.inf, math.nan])
def test_a_report_tells_what_is_infinitely_far_from_what_was_not_compared(tmp_path: Path, apart: float) -> None:
    """JSON would have null for both."""
    rows = [row([5.0], max_abs=far) for far in (None, apart, 0.5)]
    (tmp_path / "bench.json").write_bytes(report(rows).to_json())
    found = Report.read(tmp_path / "bench.json").rows
    assert [r.max_abs for r in found] == [None, INFINITE, 0.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no bench report: Input data was truncated"),
        (b"{}", "is no bench report: Object missing required field `schema`"),
        (b"[1]", "is no bench report: Expected `object`, got `array`"),
        (b'{"schema": 1, "machine": "\xff"}', "is no bench report: "),  # msgspec's words, which differ by version
        (b'{"schema": 1, "x": ' + b"[" * 100_000, "is no bench report: maximum recursion depth"),
        (b'{"schema": 99}', "has schema 99, and this ds2 reads 1"),
        (b'{"schema": 1}', "no bench report"),
        (report([msgspec.structs.replace(row([5.0]), runs_ms=[[]])]).to_json(), "a row of it has no runs"),
    ],
)
def test_what_is_no_report(ds2: Ds2, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    code, out, err = ds2("bench-compare", path, path)
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_csv_has_every_row_and_numbers_alone(tmp_path: Path) -> None:
    lines = comma_separated(
        report([row(exponential(40)), row([5.0], stages={"h2d": 1.0, "compute": 4.0})])
    ).splitlines()
    header = lines[0].split(",")
    cells = dict(zip(header, lines[2].split(","), strict=True))
    assert (cells["p50_ms"], cells["p99_ms"], cells["h2d_ms"], cells["model_ms"]) == ("5.0", "", "1.0", "")
    assert len(lines) == 3


def test_a_report_that_contradicts_itself_says_so_at_its_top() -> None:
    shown = report([row([5.0])], failed_checks=["a: b"], weaknesses=["busy"])
    assert markdown(shown).splitlines()[2] == "**This report contradicts itself; do not use it.**"
    assert 'class="failed"' in page(shown)


def test_comparison_tells_what_changed() -> None:
    before = report(
        [row(exponential(200)), row(exponential(20), batch=8)], environment={"cores": 2, "packages": {"a": "1"}}
    )
    slower = [2 * ms for ms in exponential(200, seed=3)]
    after = report([row(slower), row(exponential(20), batch=1)], environment={"cores": 4, "packages": {"a": "2"}})
    found = compare(before, after)
    [change] = found.changes
    assert change.low < change.ratio < change.high
    assert change.is_slower(20)
    assert not change.is_slower(400)
    assert not compare(before, before).changes[0].is_slower(0)
    assert found.environment == ["cores: 2 -> 4", "packages a: 1 -> 2"]
    assert ([r.batch for r in found.only_before], [r.batch for r in found.only_after]) == ([8], [1])


def test_the_command_compares_and_fails_on_demand(ds2: Ds2, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(report([row(exponential(200))]).to_json())
    (tmp_path / "b.json").write_bytes(report([row([2 * ms for ms in exponential(200, seed=3)])]).to_json())
    (tmp_path / "c.json").write_bytes(report([row(exponential(200), batch=8)]).to_json())
    code, out, err = ds2("bench-compare", tmp_path / "a.json", tmp_path / "b.json")
    assert (code, err) == (0, "")
    assert "onnxruntime fp32, batch, 4 × 2 s" in out
    code, _, err = ds2("bench-compare", tmp_path / "a.json", tmp_path / "b.json", "--fail-over", "25")
    assert code == 1
    assert "1 of 1 medians grew by more than 25%" in err
    assert ds2("bench-compare", tmp_path / "b.json", tmp_path / "a.json", "--fail-over", "25").code == 0
    code, _, err = ds2("bench-compare", tmp_path / "a.json", tmp_path / "c.json")
    assert (code, "no row in common" in err) == (1, True)


def test_rows_that_lost_requests_are_not_compared(ds2: Ds2, tmp_path: Path) -> None:
    kept, lossy = (row(exponential(200), workload="load", offered=5.0, lost=lost) for lost in (0, 3))
    for name, load in (("kept", kept), ("lossy", lossy)):
        (tmp_path / f"{name}.json").write_bytes(report([row(exponential(200)), load]).to_json())
        (tmp_path / f"{name}-alone.json").write_bytes(report([load]).to_json())
    for first, second, code in (("kept", "lossy", 1), ("lossy", "kept", 0), ("lossy", "lossy", 0)):
        paths = [tmp_path / f"{first}.json", tmp_path / f"{second}.json"]
        told = ds2("bench-compare", *paths)
        assert (told.code, told.out.count("onnxruntime fp32, load")) == (0, 0)
        assert "not compared, for requests were lost: 1 rows, such as onnxruntime fp32, 5 arrivals/s" in told.out
        assert ds2("bench-compare", *paths, "--fail-over", "1000").code == code
    told = ds2("bench-compare", tmp_path / "kept-alone.json", tmp_path / "lossy-alone.json")
    assert (told.code, "lost requests in all the rows they have in common" in told.err) == (1, True)


# --- the real thing, small --------------------------------------------------------------------------------------

QUICK = ("--cell-seconds", "0.1", "--load-seconds", "0.5", "--rounds", "2", "--batch", "1", "--batch", "3", "--seconds",
         "1", "--threads", "1")  # fmt: skip


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    lines = []
    for i, length in enumerate((8000, 12000, 9000)):
        soundfile.write(folder / f"{i}.wav", noise(length, seed=i), 16000, subtype="PCM_16")
        entry = {"audio_filepath": f"{i}.wav", "duration": length / 16000, "text": "hello you"}
        lines.append(json.dumps(entry))
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "m.jsonl"


def test_a_model_is_measured_from_end_to_end(ds2: Ds2, conv_model: ConvModel, recordings: Path, tmp_path: Path) -> None:
    code, out, err = ds2(
        "bench", conv_model.path, "--audio", recordings, "--backend", "onnxruntime", "--out", tmp_path / "out", *QUICK
    )
    assert code in (0, 1), err  # 1: the machine of a test may be busier than a report can bear
    found = Report.read(tmp_path / "out" / "bench.json")
    assert [(r.workload, r.batch) for r in found.rows[:3]] == [("utterance", 1), ("batch", 1), ("batch", 3)]
    assert {r.workload for r in found.rows[3:]} == {"load"}
    for r in found.rows:
        assert r.runs == sum(map(len, r.runs_ms)) >= 2
        assert r.rtfx == pytest.approx(r.utterances_per_s * r.audio_s, rel=0.3)
        assert r.host_mb > 20
    utterances = found.rows[0]
    assert set(utterances.stages) == {"audio", "model", "text"}
    assert utterances.wer is not None
    assert utterances.wer_difference == 0
    assert (found.partial, found.fastest) == (False, {})  # one backend alone is not the fastest
    assert found.environment["files"]["model.onnx"]
    assert "## Batches of like length" in out
    for name in ("bench.csv", "bench.md", "bench.html"):
        assert (tmp_path / "out" / name).stat().st_size > 500


def test_the_report_in_a_model_folder_is_heeded(conv_model: ConvModel, tmp_path: Path) -> None:
    from ds2_deploy.model_folder import open_model
    from ds2_deploy.runtime.bench_choice import machine_name

    shutil.copytree(conv_model.path, tmp_path / "model")
    here = report([], machine=machine_name(), fastest={"offline": ["torch", "onnxruntime"]})
    (tmp_path / "model" / "bench.json").write_bytes(here.to_json())
    assert in_order(["tensorrt", "onnxruntime", "torch"], open_model(tmp_path / "model"), "offline") == [
        "torch", "onnxruntime", "tensorrt",
    ]  # fmt: skip


def test_streams_are_measured_and_equal_the_reference(ds2: Ds2, tmp_path: Path) -> None:
    code, _, err = ds2(
        "bench", "streaming", "--workload", "stream", "--streams", "2", "--out", tmp_path, "--cell-seconds", "0.2",
        "--rounds", "1", "--threads", "1",
    )  # fmt: skip
    assert code in (0, 1), err
    found = Report.read(tmp_path / "bench.json")
    assert [(r.name, r.batch, r.audio_s) for r in found.rows] == [
        ("torch fp32", 2, 0.1), ("onnxruntime fp32", 2, 0.1),
    ]  # fmt: skip
    assert found.rows[0].max_abs is None
    assert 0 < (found.rows[1].max_abs or 0) < 1e-3
    assert found.failed_checks or set(found.fastest["stream"]) == {"torch", "onnxruntime"}


def test_streams_are_as_fast_as_a_second_of_sound_takes_them() -> None:
    """Steps of half a second take longer than those of a tenth, and are fewer."""
    shape: dict[str, Any] = {"workload": "stream", "batch": 1}
    rows = [
        row([6.0] * 5, backend="torch", audio_s=0.12, **shape),
        row([13.0] * 5, backend="onnxruntime", audio_s=0.52, **shape),
        row([70.0] * 5, backend="tensorrt", audio_s=0.52, **shape),
    ]
    assert fastest(rows)["stream"] == ["onnxruntime", "torch", "tensorrt"]


def test_an_interrupt_keeps_what_was_measured(conv_model: ConvModel, tmp_path: Path) -> None:
    lengths = [word for seconds in range(1, 200) for word in ("--seconds", str(seconds))]
    command = [
        sys.executable, "-m", "ds2_deploy", "bench", conv_model.path, "--workload", "batch", "--out", tmp_path,
        "--cell-seconds", "0.2", "--rounds", "1", "--backend", "onnxruntime", "--threads", "1", "--batch", "1",
        *lengths,
    ]  # fmt: skip
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits deaf ears
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listening
    )
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = Report.read(tmp_path / "bench.json")
    assert found.partial
    assert 0 < len(found.rows) < 199
    assert b"Some cells are missing: interrupted." in out
    assert b"Traceback" not in err


def test_an_interrupt_before_anything_was_measured_says_so_and_leaves_nothing(
    ds2: Ds2, conv_model: ConvModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ds2_deploy.bench.run.run", interrupted)
    monkeypatch.setattr("ds2_deploy.cli._leave", lambda: None)  # which ends this process
    outcome = ds2("bench", conv_model.path, "--out", tmp_path / "out")
    assert outcome == (130, "", "ds2: Interrupted before anything was measured: there is no report.\n")
    assert not (tmp_path / "out").exists()


def test_the_recorded_command_can_be_run_again(
    ds2: Ds2, conv_model: ConvModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(asked: Asked, *_: object) -> None:
        raise BenchError(asked.command)

    monkeypatch.setattr("ds2_deploy.bench.run.run", told)
    words = ["bench", str(conv_model.path), "--out", str(tmp_path / "a report's")]
    assert shlex.split(ds2(*words).err.removeprefix("ds2: ")) == ["ds2", *words]


def test_what_was_measured_outlives_a_worker(conv_model: ConvModel) -> None:
    asked = Asked(str(conv_model.path), ("onnxruntime",), (), "auto", 1, None, 3, "ds2 bench")
    small = plan.Plan(workloads=("batch",), batches=(1, 2), seconds=(1.0,), cell_s=0.05, rounds=1)

    def tell(what: str) -> None:
        if what == "2 × 1 s":
            for child in multiprocessing.active_children():
                child.kill()

    found, ended = run(asked, small, tell)
    assert isinstance(ended, BenchError)
    assert (found.partial, [r.batch for r in found.rows], found.fastest) == (True, [1], {})
    assert "ended by signal SIGKILL" in found.weaknesses[0]


def test_without_recordings_all_but_utterances_is_measured(ds2: Ds2, conv_model: ConvModel) -> None:
    code, out, err = ds2("bench", conv_model.path, "--backend", "onnxruntime", *QUICK)
    assert code in (0, 1), err
    assert "## Batches of like length" in out
    assert "## Load" in out
    assert "not here: streams" in out


def test_a_backend_that_says_something_else_fails(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    """Another model's graph beside the weights of `default`."""
    from ds2_deploy.model_folder import open_model

    folder = tmp_path / "wrong"
    shutil.copytree(open_model("default").path, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.weight"))
    weights[name] = weights[name][::-1].copy()
    save_file(weights, folder / "model.safetensors")
    code, out, err = ds2("bench", folder, "--workload", "batch", "--batch", "1", "--seconds", "1", "--threads", "1",
                         "--cell-seconds", "0.1", "--rounds", "1", "--out", tmp_path / "out")  # fmt: skip
    assert code == 1
    assert "contradicts itself" in err
    assert "nats from the reference's" in out
    assert Report.read(tmp_path / "out" / "bench.json").fastest == {}


def test_an_engine_for_shorter_recordings_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Short:
        def __init__(self, spec: Spec) -> None:
            self.loaded = SimpleNamespace(max_samples=160_000)

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(run_module, "Remote", Short)
    spec = Spec("m", "tensorrt", "fp16", "cuda:0", 1, stream=False)
    assert plan.Plan(workloads=("batch", "stream"), seconds=(2.0, 10.0)).longest_s([30.0]) == 10.0
    assert plan.Plan(workloads=("utterance",)).longest_s([3.0, 12.0]) == 12.0
    assert plan.Plan(workloads=("stream",)).longest_s([3.0]) == 0.0
    run_module._loaded(spec, 10.0, 16000)
    assert not closed
    with pytest.raises(
        BackendUnavailableError, match=r"takes 10 s in one piece, and the longest recording here has 10\.5"
    ):
        run_module._loaded(spec, 10.5, 16000)
    assert len(closed) == 1


@pytest.mark.parametrize(("backends", "ends"), [((), False), (("torch", "onnxruntime"), True)])
def test_a_backend_that_crashes_as_it_loads_is_left_out(
    conv_model: ConvModel, monkeypatch: pytest.MonkeyPatch, backends: tuple[str, ...], ends: bool
) -> None:
    """Of a report that asked for it by name it is the end."""

    class Crashing(Remote):
        def __init__(self, spec: Spec) -> None:
            if spec.backend == "torch":
                raise BenchError("The process of torch fp32 ended by signal SIGSEGV.")
            super().__init__(spec)

    monkeypatch.setattr(run_module, "Remote", Crashing)
    asked = Asked(str(conv_model.path), backends, ("fp32",), "cpu", 1, None, 3, "ds2 bench")
    small = plan.Plan(workloads=("batch",), batches=(1,), seconds=(1.0,), cell_s=0.05, rounds=1)
    if ends:
        with pytest.raises(BenchError, match="SIGSEGV"):
            run(asked, small, lambda _: None)
    else:
        found, ended = run(asked, small, lambda _: None)
        assert (ended, [r.backend for r in found.rows]) == (None, ["onnxruntime"])
        assert found.not_run["torch fp32"] == "The process of torch fp32 ended by signal SIGSEGV."


@pytest.mark.parametrize(("name", "why"), [("SIGKILL", ", most likely for want of memory"), ("SIGSEGV", "")])
def test_a_worker_that_dies_is_named(conv_model: ConvModel, name: str, why: str) -> None:
    remote = Remote(Spec(str(conv_model.path), "onnxruntime", "fp32", "cpu", 1, False))
    try:
        with pytest.raises(BenchError, match="onnxruntime fp32: ValueError"):
            remote.ask("prepare", plan.Inputs(np.zeros((1, 99), np.float32), np.array([99, 99])))
        os.kill(remote._process.pid or 0, getattr(signal, name))
        with pytest.raises(BenchError, match=rf"onnxruntime fp32 ended by signal {name}{why}\.$"):
            remote.ask("warm_up")
    finally:
        remote.close()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--workload", "dance"], 2, "no workload 'dance'"),
        (["--workload", "batch", "--rate", "5"], 2, "--rate is for the workload load: add --workload load"),
        (["--workload", "batch", "--load-seconds", "5"], 2, "--load-seconds is for the workload load"),
        (["--workload", "load", "--streams", "4"], 2, "--streams is for the workload stream"),
        (["--backend", "tpu"], 2, "no backend 'tpu'"),
        (["--precision", "fp8"], 2, "no precision 'fp8'"),
        (["--device", "gpu"], 2, "no device 'gpu'"),
        (["--backend", "tensorrt"], 1, "TensorRT"),
        (["--workload", "stream"], 1, "has none of the workloads"),
        (["--audio", "nowhere"], 1, "nowhere"),
        (["--out", "/dev/null/x"], 1, "Cannot write into /dev/null/x: /dev/null is not a folder."),
        (["--out", "/dev/null"], 1, "Cannot write into /dev/null: it is not a folder."),
        (["--rate", "1e9"], 2, "--rate"),
        (["--precision", "fp16"], 1, "No backend can run"),
        (["--backend", "onnxruntime", "--precision", "fp16"], 1, "nothing that onnxruntime could run"),
    ],
)
def test_what_cannot_be_measured(ds2: Ds2, conv_model: ConvModel, options: list[str], code: int, words: str) -> None:
    outcome = ds2("bench", conv_model.path, *options)
    assert (outcome.code, outcome.out) == (code, "")
    assert words in " ".join(outcome.err.replace("│", " ").split())


# --- in a browser -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1200, 400], ids=["desk", "phone"])
def test_the_page_opens_in_a_browser(width: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed: the page is not opened")
    rows = [row(exponential(100), batch=batch, backend=name) for batch in (1, 8) for name in ("torch", "onnxruntime")]
    path = tmp_path / "bench.html"
    path.write_text(page(report(rows, weaknesses=["busy <b>"])), encoding="utf-8")
    assert "http://" not in path.read_text().replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},1500",
             f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    picture = tmp_path / "page.png"
    subprocess.run(
        [browser, *flags, f"--screenshot={picture}", path.as_uri()], check=True, capture_output=True, timeout=90
    )
    dump = subprocess.run([browser, *flags, "--dump-dom", path.as_uri()], check=True, capture_output=True, timeout=90)
    assert dump.stdout.count(b"<figure>") == 2
    assert b"busy &lt;b&gt;" in dump.stdout
    pixels = imread(picture)
    assert pixels.shape[1] == width
    colors = {tuple(c) for c in (pixels[..., :3] * 255).round().astype(int).reshape(-1, 3)}
    assert (0x33, 0x66, 0xAA) in colors  # a line of a picture
    assert (0xFF, 0xF6, 0xE0) in colors  # the box of the weaknesses


def imread(path: Path) -> Any:
    from matplotlib.image import imread

    return imread(path)


def test_every_column_has_a_name_of_its_own() -> None:
    assert len({name for name, _ in COLUMNS}) == len(COLUMNS)


def test_parts_of_recordings_are_no_recordings(ds2: Ds2, conv_model: ConvModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(32000), 16000)
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav", "offset": 1.0, "duration": 0.5, "text": "a"}\n')
    outcome = ds2("bench", conv_model.path, "--audio", tmp_path / "m.jsonl")
    assert (outcome.code, "names a part of a.wav, from 1 s on" in outcome.err) == (1, True)


def test_sound_of_a_manifest_has_texts_where_they_are_written_and_a_fault_its_line(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000), 16000)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('\ufeff{"audio_filepath": "a.wav", "text": "Hello"}\n{"audio_filepath": "a.wav"}\n', "utf-8")
    assert real_sound(manifest, 16000, 9, "en").texts == ["hello", None]
    manifest.write_text('{"audio_filepath": "a.wav"}\n\nnonsense\n', "utf-8")
    with pytest.raises(ManifestError, match=r"m\.jsonl, line 3 is not JSON"):
        real_sound(manifest, 16000, 9, "en")
    manifest.write_text("")
    with pytest.raises(BenchError, match="holds no sound to measure with"):
        real_sound(manifest, 16000, 9, "en")
