"""Engines of a model folder: which of them this machine can run, and whether they are what they say.

Deserialising an engine runs native code, which trusts its bytes. So everything that can be known is checked before
the library sees the first of them: the JSON beside the engine, the runtime and its version, the GPU, the model it was
built from, its size and its hash.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ds2_deploy.errors import BackendUnavailableError, DS2Error, EngineError, MissingPackageError
from ds2_deploy.files import read_bytes, sha256
from ds2_deploy.model_folder import ENGINES_FOLDER, ModelFolder, Precision, graph_file
from ds2_deploy.runtime.engine_info import EngineInfo
from ds2_deploy.runtime.gpu import Gpu
from ds2_deploy.runtime.trt import TITLES, TensorRT, load_runtime


class Engine(NamedTuple):
    """An engine that has passed every check."""

    path: Path
    info: EngineInfo
    plan: bytes
    tensorrt: TensorRT


def open_engine(model: ModelFolder, gpu: Gpu, precision: Precision, *, stream: bool = False) -> Engine:
    """The best engine of `model` for `gpu`: TensorRT before TensorRT-RTX, one of this very GPU before a portable one.

    BackendUnavailableError where there is none, EngineError or MissingPackageError with the reason why the best of
    those that are there cannot be used.
    """
    source = graph_file(precision, stream=stream)
    reasons: list[DS2Error] = []
    for path, info in sorted(_engines(model.path, source, reasons), key=lambda engine: _preference(engine[1])):
        try:
            tensorrt = load_runtime(info.runtime, gpu)
            return Engine(path, info, checked_plan(path, info, model, tensorrt), tensorrt)
        except (EngineError, MissingPackageError, BackendUnavailableError) as error:
            reasons.append(error)
    if reasons:
        raise reasons[0]
    arguments = "".join((" --fp16" if precision == "fp16" else "", " --stream" if stream else ""))
    raise BackendUnavailableError(
        f"{model.path} has no TensorRT engine of {source}: build one with ds2 build-engine {model.path}{arguments}."
    )


def _engines(folder: Path, source: str, reasons: list[DS2Error]) -> Iterator[tuple[Path, EngineInfo]]:
    """Those that were built from the graph `source`; what is wrong with a JSON goes to `reasons`."""
    for path in sorted((folder / ENGINES_FOLDER).glob("*.engine")):
        try:
            info = EngineInfo.read(path.with_suffix(".json"))
        except EngineError as error:
            if path.name.startswith(tuple(f"{Path(source).stem}.{rest}" for rest in ("tensorrt", "tf32"))):
                reasons.append(error)
            continue
        if info.source == source:
            yield path, info


def _preference(info: EngineInfo) -> tuple[bool, bool, bool]:
    return info.tf32, info.runtime != "tensorrt", info.compute_capability.endswith("+")


def checked_plan(path: Path, info: EngineInfo, model: ModelFolder, tensorrt: TensorRT) -> bytes:
    """The engine's bytes; EngineError says which fact differs from what its JSON, this machine or the model says."""
    if not (_serves_version(info, tensorrt) and _serves_gpu(info, tensorrt.gpu)):
        here = f"{tensorrt.title} on {tensorrt.gpu}" if tensorrt.gpu else f"{tensorrt.title} without a GPU"
        raise EngineError(
            f"{path} was built by {TITLES[info.runtime]} {info.runtime_version} for compute capability "
            f"{info.compute_capability}; this is {here}: build it again here."
        )
    graph = model.path / info.source
    if (graph.is_file() and sha256(graph) != info.source_sha256) or info.metadata != model.metadata:
        raise EngineError(f"{path} was built from another {info.source} than the one beside it: add --rebuild.")
    plan = read_bytes(path, EngineError)
    if len(plan) != info.size_bytes:
        raise EngineError(
            f"{path} has {len(plan)} bytes where its JSON says {info.size_bytes}: it is cut off, build it again."
        )
    if hashlib.sha256(plan).hexdigest() != info.sha256:
        raise EngineError(f"{path} is not what its JSON describes (SHA-256): it was altered, build it again.")
    return plan


def _serves_version(info: EngineInfo, tensorrt: TensorRT) -> bool:
    if info.runtime != tensorrt.name:
        return False
    built, here = (tuple(map(_number, version.split("."))) for version in (info.runtime_version, tensorrt.version))
    return built == here or (info.version_compatible and built[0] == here[0] and built < here)


def _number(text: str) -> int:
    """The leading digits of a part of a version."""
    found = re.match("[0-9]+", text)
    return int(found[0]) if found else -1


def _serves_gpu(info: EngineInfo, gpu: Gpu | None) -> bool:
    if gpu is None:
        return False
    lowest = tuple(map(int, info.compute_capability.rstrip("+").split(".")))
    if info.compute_capability.endswith("+"):
        return gpu.compute_capability >= lowest
    return gpu.compute_capability == lowest
