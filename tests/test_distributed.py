"""Processes that train together: what one is told when another ends."""

import os
import socket
import subprocess
import sys

import pytest

from ds2_deploy.errors import TrainingError
from training.distributed import ENDED, joined_processes

TWO = """
import torch
from ds2_deploy.errors import AudioError, TrainingError
from training.distributed import joined_processes
try:
    with joined_processes("cpu") as processes:
        processes.sum(torch.ones(1))
        if processes.rank:
            raise AudioError("Cannot decode x.wav.")
        processes.sum(torch.ones(1))
except (AudioError, TrainingError) as error:
    print(error)
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_process_whose_partner_has_ended_points_to_its_line():
    """Instead of Gloo's source file."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO], env=os.environ | group | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert said == ["Another process of this training has ended; its own line says why.\n", "Cannot decode x.wav.\n"]


@pytest.fixture
def group_of_two(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("init_process_group", "destroy_process_group", "barrier", "get_rank", "get_world_size"):
        monkeypatch.setattr(f"training.distributed.dist.{name}", lambda *_: 2)


NCCL = """NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:77, remote process exited or there was a network \
error, NCCL version 2.27.3
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."""


@pytest.mark.usefixtures("group_of_two")
def test_so_it_does_on_gpus_and_other_errors_stay_what_they_are():
    with pytest.raises(TrainingError, match="Another process"), joined_processes("cpu"):
        raise RuntimeError(NCCL)
    with pytest.raises(RuntimeError, match="shape"), joined_processes("cpu"):
        raise RuntimeError("The size of tensor a must match: shape")
    assert "ncclRemoteError" in ENDED
