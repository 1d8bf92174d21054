"""What `make gpu-check` writes of its steps, whatever became of them."""

import math
import sys
from pathlib import Path

import msgspec
import pytest

from export.parity import Difference, ParityReport

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu_check

FINE = Difference(
    backend="onnxruntime", precision="fp16", device="cuda:0", frames=100, max_abs=0.01, mean_abs=1e-3, equal_argmax=1.0,
    equal_lengths=True, max_abs_allowed=0.1, equal_argmax_required=0.999, different_words=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "1.0e-02 | 100.000% | 2 | ok |"),
        ({"max_abs": math.inf, "mean_abs": math.inf}, "inf | 100.000% | 2 | differs by up to inf nats (allowed 0.1)"),
        ({"equal_lengths": False, "max_abs": 0.0}, "0.0e+00 | 100.000% | 2 | gives other numbers of frames |"),
    ],
)
def test_a_parity_report_is_a_row_with_a_verdict(changes: dict[str, object], verdict: str) -> None:
    found = ParityReport(
        reference="torch", recordings=("a",), shapes=((1, 1),), passed=False,
        differences=(msgspec.structs.replace(FINE, **changes),),
    )  # fmt: skip
    steps = {
        "parity m": {"ok": True, "result": msgspec.json.decode(found.to_json())},
        "throughput m torch fp32": {"ok": True, "result": [{"batch": 8, "seconds": 10.0, "reason": "no memory"}]},
        "latency m torch fp32": {"ok": False, "reason": "no GPU"},
        "training an4 bf16": {
            "ok": True,
            "result": {"audio_hours_per_hour": 484.4, "data_wait": 0.0123, "loss": 9.0},
        },
    }
    text = gpu_check.markdown({"gpu": "H200", "machine": {"python": "3"}, "device": "cuda:0", "steps": steps})
    assert f"| m | onnxruntime fp16 on cuda:0 | {verdict}" in text
    assert "| m torch fp32 | 8 × 10 | no memory |" in text
    assert "- latency m torch fp32: no GPU" in text
    assert "| an4 bf16 | 484 | 1.2% |" in text


def test_a_shape_that_fails_says_why_and_the_others_go_on() -> None:
    def full() -> None:
        raise MemoryError("the GPU's memory is full")

    assert gpu_check.timed(full, 1.0, math.inf) == {"reason": "MemoryError: the GPU's memory is full"}
    measured = gpu_check.timed(lambda: None, 1.0, math.inf)
    assert measured["runs"] == gpu_check.RUNS
    assert measured["p98"] is not None
