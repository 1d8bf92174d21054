"""Asking the driver for its GPUs, with a driver made of Python."""

import ctypes

import pytest

from ds2_deploy.runtime.gpu import Gpu, gpus


class Driver:
    """libcuda as far as it is called: every function returns 0 and writes through its pointers."""

    def __init__(self, count: int, init: int = 0) -> None:
        self.count, self.init = count, init

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, count: "ctypes._CArgObject") -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: "ctypes._CArgObject", ordinal: int) -> int:  # noqa: N802
        device._obj.value = 100 + ordinal
        return 0

    def cuDeviceGetName(self, name: "ctypes.Array[ctypes.c_char]", size: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = f"GPU {device.value}".encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: "ctypes._CArgObject", attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: device.value - 94}[attribute]
        return 0


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> list[Gpu]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    return gpus()


def test_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_driver(monkeypatch, Driver(2))
    assert found == [Gpu("GPU 100", (8, 6)), Gpu("GPU 101", (8, 7))]
    assert str(found[0]) == "GPU 100 (compute capability 8.6)"


def test_driver_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_driver(monkeypatch, Driver(0)) == []
    assert with_driver(monkeypatch, Driver(2, init=100)) == []  # CUDA_ERROR_NO_DEVICE


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpus() == []
