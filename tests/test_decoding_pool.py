"""Processes that decode: what they give is what this process would, whatever happens to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ds2_deploy.decoding import pool as module
from ds2_deploy.decoding.beam import BeamDecoder
from ds2_deploy.decoding.pool import DecodingPool
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import InferenceError
from ds2_deploy.text.alphabet import ENGLISH
from tests.test_beam import random_emissions, spoken

pytest.importorskip("pyctcdecode")
pytest.importorskip("loky")

ROWS = [random_emissions(frames, len(ENGLISH), frames) for frames in (30, 0, 12, 1, 25, 7, 40)]


@pytest.fixture(scope="module")
def decoder() -> BeamDecoder:
    return BeamDecoder(ENGLISH, BeamConfig(beam_width=8))


@pytest.fixture(scope="module")
def pool(decoder: BeamDecoder) -> DecodingPool:
    pool = DecodingPool(decoder, 2)
    pool.begin()
    wait_for(lambda: pool.is_ready)
    return pool


def test_what_processes_decode_is_what_is_decoded_here(decoder: BeamDecoder, pool: DecodingPool) -> None:
    expected = [decoder.decode(row) for row in ROWS]
    for count in (0, 1, 2, 3, len(ROWS)):
        assert pool.decode(ROWS[:count]) == expected[:count]


def test_what_cannot_be_decoded_is_an_error_in_its_place(pool: DecodingPool) -> None:
    bad = spoken("ab")
    bad[1] = np.nan
    good, error, also_good = pool.decode([spoken("ab"), bad, spoken("c")])
    assert (good.text, also_good.text) == ("ab", "c")  # type: ignore[union-attr]
    assert isinstance(error, InferenceError)
    assert "Frame 1" in str(error)


def test_a_pool_whose_processes_were_killed_decodes_here(
    decoder: BeamDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    own = DecodingPool(decoder, 1)
    own.begin()
    wait_for(lambda: own.is_ready)
    for process in list(own._executor._processes):
        os.kill(process, signal.SIGKILL)
    for _ in range(3):
        assert own.decode(ROWS) == [decoder.decode(row) for row in ROWS]
    assert [record.message.count("was ended") for record in caplog.records] == [1]


def test_processes_begin_when_there_is_enough_to_do(decoder: BeamDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_IT_S", 0.02)
    own = DecodingPool(decoder, 1)
    expected = [decoder.decode(row) for row in ROWS]
    assert own.decode(ROWS[1:2]) == expected[1:2]
    assert own._executor is None
    deadline = time.monotonic() + 60
    while not own.is_ready and time.monotonic() < deadline:
        assert own.decode(ROWS) == expected
    assert own.is_ready
    assert own.decode(ROWS) == expected
    own.kill()
    assert own.decode(ROWS) == expected


def test_processes_end_with_the_one_that_began_them() -> None:
    """Which was killed, so that it cannot have told them; and not because they have nothing to do."""
    script = (
        "import os, signal, time\n"
        "from ds2_deploy.decoding import pool as module\n"
        "from ds2_deploy.decoding.beam import BeamDecoder\n"
        "from ds2_deploy.decoding.pool import DecodingPool\n"
        "from ds2_deploy.text.alphabet import ENGLISH\n"
        "module.IDLE_S = 300\n"
        "pool = DecodingPool(BeamDecoder(ENGLISH), 2)\n"
        "pool.begin()\n"
        "while not pool.is_ready: time.sleep(0.05)\n"
        "print(*pool._executor._processes, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=120)
    processes = [int(number) for number in done.stdout.split()]
    assert len(processes) == 2
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()
