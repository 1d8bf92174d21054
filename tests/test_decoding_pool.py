"""Processes that decode: what they give is what this process would, whatever happens to them."""

import os
import signal
import time

import numpy as np
import pytest

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
    deadline = time.monotonic() + 60
    while not pool.is_ready and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pool.is_ready
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
    assert "frame 1" in str(error)


def test_a_pool_whose_processes_were_killed_decodes_here(decoder: BeamDecoder) -> None:
    own = DecodingPool(decoder, 1)
    assert own.decode(ROWS) == [decoder.decode(row) for row in ROWS]  # not begun yet, most likely
    deadline = time.monotonic() + 60
    while not own.is_ready and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in list(own._executor._processes):
        os.kill(process, signal.SIGKILL)
    assert own.decode(ROWS) == [decoder.decode(row) for row in ROWS]
