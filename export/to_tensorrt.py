"""ONNX file -> TensorRT engine, strongly typed: the precisions are those written in the graph.

Neither torch nor the onnx package is needed: an engine is often built on a machine that has neither.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ds2_deploy import __version__
from ds2_deploy.errors import ConfigError, EngineError, OutputError
from ds2_deploy.files import atomic_path, check_output_file, sha256
from ds2_deploy.locking import alone_with
from ds2_deploy.metadata import ONNX_KEY, ModelMetadata
from ds2_deploy.model_folder import ENGINES_FOLDER, Precision, open_model
from ds2_deploy.runtime.engine_info import EngineInfo, OptimizationProfile, TensorInfo
from ds2_deploy.runtime.protocol import INPUTS, OUTPUTS, STREAM_INPUTS, STREAM_OUTPUTS
from ds2_deploy.runtime.trt import BuildOptions, RuntimeChoice, TensorRT, choose
from export.profiles import DEFAULT_BATCH, DEFAULT_SECONDS, DEFAULT_STREAMS, Range, make_profiles
from export.progress import BuildProgress

DEFAULT_OPTIONS = BuildOptions()

_logger = logging.getLogger(__name__)


def build_engine(
    model: str | os.PathLike[str],
    *,
    fp16: bool = False,
    stream: bool = False,
    runtime: RuntimeChoice = "auto",
    batch: Range | None = None,
    seconds: Sequence[Range] = (),
    options: BuildOptions = DEFAULT_OPTIONS,
    rebuild: bool = False,
    progress: BuildProgress | None = None,
) -> Path:
    """Build MODEL/engines/NAME.engine and NAME.json beside it; returns the engine's path.

    `model` is a model folder or the name of a bundled model; `seconds` makes one profile of each range, none
    given are DEFAULT_SECONDS. `options.layers` writes NAME.layers.json, too. An engine that is there already is
    replaced with `rebuild` only. What TensorRT measures stays in engines/RUNTIME.VERSION.timing-cache for the next
    build.

    Raises ModelError, MissingPackageError and BackendUnavailableError for what is missing, EngineError for a graph
    that cannot be built, OutputError for what cannot be written or is being built by another process.
    """
    if stream and seconds:
        raise ConfigError("--seconds does not go with --stream: a stream's chunks all have one length.")
    folder, metadata = model_folder = open_model(model)
    if stream:
        metadata.check_can_stream(folder)
    precision: Precision = "fp16" if fp16 else "fp32"
    source = model_folder.graph(precision, stream=stream)
    tensorrt = choose(runtime)
    tag = tensorrt.target(options).tag
    path = folder / ENGINES_FOLDER / f"{source.stem}{'.tf32' if options.tf32 else ''}.{tag}.engine"
    with alone_with(source, f"building an engine from {source}"):
        _check_output(path, rebuild=rebuild)
        start = time.perf_counter()
        build = Build(tensorrt, source, options)
        build.check_interface(stream=stream)
        if inside := _metadata_in(source):
            metadata.check_graph(inside, source)
        batch = batch or (DEFAULT_STREAMS if stream else DEFAULT_BATCH)
        profiles = make_profiles({i.name: i.shape for i in build.inputs}, batch, seconds or DEFAULT_SECONDS, metadata)
        plan = build.plan(profiles, path.with_name(f"{tag}.{tensorrt.version}.timing-cache"), progress)
        build_s = time.perf_counter() - start
        info = build.describe(plan, profiles, metadata, precision=precision, build_s=build_s)
        if options.layers:
            with atomic_path(path.with_suffix(".layers.json")) as layers_file:
                layers_file.write_text(json.dumps(build.layers(plan), indent=1))
        else:
            path.with_suffix(".layers.json").unlink(missing_ok=True)
        # The engine takes its place first: one without its JSON is not used, one beside another's fails the hash.
        with atomic_path(path.with_suffix(".json")) as json_file, atomic_path(path) as engine_file:
            info.write(json_file)
            engine_file.write_bytes(plan)
        path.with_suffix(".runtime-cache").unlink(missing_ok=True)  # what TensorRT-RTX compiled of the one before
    _logger.info("%s built %s in %.1f s: %.1f MB", tensorrt.title, path, build_s, plan.nbytes / 1e6)
    return path


def _metadata_in(graph: Path) -> str | None:
    """What `ds2 export` wrote into an ONNX file: of its protobuf, the last pair of strings, whose first is ONNX_KEY."""
    content = graph.read_bytes()
    begin = b"\n" + bytes([len(ONNX_KEY)]) + ONNX_KEY.encode() + b"\x12"
    at = content.rfind(begin) + len(begin)
    if at < len(begin):
        return None
    length = shift = 0
    while True:  # seven bits a byte, the lowest first
        length |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:
            return content[at : at + length].decode()


def _check_output(path: Path, *, rebuild: bool) -> None:
    """Say now, rather than after minutes of building, that the engine cannot be written."""
    if path.exists() and not rebuild:
        raise OutputError(f"{path} exists already: add --rebuild to replace it.")
    check_output_file(path)


class Build:
    """One ONNX file on its way through the parser and the builder.

    The native objects use each other's memory without owning it (the network holds weights of the parser), so
    all of them live as long as this one.
    """

    def __init__(self, tensorrt: TensorRT, source: Path, options: BuildOptions = DEFAULT_OPTIONS) -> None:
        self._tensorrt, self._source, self._options = tensorrt, source, options
        self._source_sha256 = sha256(source)  # before it is parsed: `describe` sees whether it is still the same
        self._log = tensorrt.create_log()
        try:
            self._builder = tensorrt.api.Builder(self._log)
        except TypeError:  # how pybind11 says that the native constructor returned nothing
            raise self._error("the library does not start") from None
        self._network = tensorrt.create_network(self._builder)
        self._parser = tensorrt.api.OnnxParser(self._network, self._log)
        if not self._parser.parse_from_file(str(source)):
            raise EngineError(f"{self._title}: {_parser_reason(self._parser)}.")

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return tuple(self._tensor(self._network.get_input(i)) for i in range(self._network.num_inputs))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return tuple(self._tensor(self._network.get_output(i)) for i in range(self._network.num_outputs))

    def check_interface(self, *, stream: bool) -> None:
        """The parser takes any protobuf, an empty file included, for a graph: make sure that it is ours."""
        expected = [*STREAM_INPUTS, *STREAM_OUTPUTS] if stream else [*INPUTS, *OUTPUTS]
        found = [tensor.name for tensor in self.inputs + self.outputs]
        if found != expected:
            raise EngineError(
                f"{self._source} has the inputs and outputs {', '.join(found) or '(none)'}, where a ds2 model "
                f"has {', '.join(expected)}: export the model again."
            )

    def plan(
        self, profiles: Sequence[OptimizationProfile], timing_cache: Path, progress: BuildProgress | None = None
    ) -> memoryview:
        """The serialised engine. Whether there is one decides: a good build may log errors as well."""
        config = self._tensorrt.create_config(self._builder, self._options)
        self._tensorrt.use_timing_cache(config, timing_cache.read_bytes() if timing_cache.exists() else b"")
        self._log.errors.clear()  # a refused cache is no reason of the build's
        monitor = self._tensorrt.create_monitor(progress) if progress else None
        if monitor is not None:
            config.progress_monitor = monitor
        for profile in profiles:
            native = self._builder.create_optimization_profile()
            for name, shapes in profile.inputs.items():
                native.set_shape(name, shapes.min, shapes.opt, shapes.max)
            config.add_optimization_profile(native)
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            raise self._error("the builder gave no reason")
        if measured := self._tensorrt.timing_cache(config):
            with atomic_path(timing_cache) as cache_file:
                cache_file.write_bytes(measured)
        return memoryview(plan)

    def layers(self, plan: memoryview) -> dict[str, Any]:
        """What was parsed, layer by layer, and what became of it, for which the library needs a GPU."""
        network = self._network
        return {
            "parsed": [_layer(network.get_layer(number)) for number in range(network.num_layers)],
            "engine": self._tensorrt.inspect(plan, self._log),
        }

    def describe(
        self,
        plan: memoryview,
        profiles: tuple[OptimizationProfile, ...],
        metadata: ModelMetadata,
        *,
        precision: Precision,
        build_s: float,
    ) -> EngineInfo:
        """What the plan is; EngineError where the graph is not any more what was parsed."""
        if sha256(self._source) != self._source_sha256:
            raise EngineError(f"{self._source} was replaced while an engine was built from it: build it again.")
        target, options = self._tensorrt.target(self._options), self._options
        return EngineInfo(
            runtime=self._tensorrt.name,
            runtime_version=self._tensorrt.version,
            ds2_version=__version__,
            compute_capability=target.compute_capability,
            gpu=target.gpu.name if target.gpu else None,
            source=self._source.name,
            source_sha256=self._source_sha256,
            sha256=hashlib.sha256(plan).hexdigest(),
            size_bytes=plan.nbytes,
            precision=precision,
            tf32=options.tf32,
            version_compatible=options.version_compatible,
            profiles=profiles,
            inputs=self.inputs,
            outputs=self.outputs,
            build_s=round(build_s, 3),
            metadata=metadata,
        )

    @property
    def _title(self) -> str:
        return f"{self._tensorrt.title} cannot build an engine from {self._source}"

    def _error(self, otherwise: str) -> EngineError:
        """The library's first complaint as a sentence; the others are logged."""
        errors = self._log.errors or [otherwise]
        for line in errors[1:]:
            _logger.error("%s", line)
        return EngineError(f"{self._title}: {_plain(errors[0])}.")

    def _tensor(self, tensor: Any) -> TensorInfo:
        dtype = np.dtype(self._tensorrt.api.nptype(tensor.dtype))
        return TensorInfo(name=tensor.name, dtype=dtype.name, shape=tuple(tensor.shape))


def _layer(layer: Any) -> dict[str, Any]:
    """Name, kind and outputs of one layer of a parsed network; -1 is a dimension that varies."""
    outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
    return {
        "name": layer.name,
        "type": layer.type.name,
        "outputs": [{"name": o.name, "dtype": o.dtype.name, "shape": list(o.shape)} for o in outputs],
    }


def _parser_reason(parser: Any) -> str:
    """Node and reason of the first error, in one line."""
    error = parser.get_error(0)
    if not error.node_name():  # not about a node, but about the file
        return f"{_plain(error.desc())}; export the model again"
    return f"node '{error.node_name()}' ({error.node_operator()}): {_plain(error.desc())}"


def _plain(message: str) -> str:
    """The telling line of a native message, without the library's own file names.

    >>> _plain("Invalid Node - GRU_6\\nITensor::f: Error Code 4: API Usage Error (Half. In g at /_src/h.cpp:27)")
    'API Usage Error (Half)'
    """
    lines = [line for line in message.splitlines() if line and not line.startswith("Invalid Node")]
    line = re.sub(r"\.? In \w+ at /\S+?:\d+", "", lines[0] if lines else message)
    return line.partition("Error Code ")[2].partition(": ")[2] or line.rstrip(". ")
