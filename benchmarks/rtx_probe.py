"""Does TensorRT-RTX run on this GPU? Its makers list none of compute capability 9.0, so this asks the library itself.

    python benchmarks/rtx_probe.py run [--model MODEL] [--engine FILE]... [--out FILE.json]

FILE      an engine that `ds2 build-engine --runtime tensorrt-rtx` built elsewhere, ahead of time
default   one built here for the default targets
current   one built here for this GPU alone

Each is tried in a process of its own, which may crash or hang. What the library says is printed and kept word for word.
PyTorch holds the memory, so pycuda is not needed; what comes out is compared with PyTorch on the CPU.
"""

import json
import logging
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bounded import spoken

from ds2_deploy.bench.environment import changing
from ds2_deploy.errors import DS2Error
from ds2_deploy.files import atomic_path
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime.gpu import gpus
from ds2_deploy.runtime.trt import BuildOptions, TensorRT, load_runtime
from export.profiles import Range, make_profiles
from export.to_tensorrt import Build

BUILT_HERE = ("default", "current")
BATCH, SECONDS = Range(1, 2, 4), Range(0, 3, 5)
RUNS = 5
"""The first compiles for the GPU."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class ForThisGpu(TensorRT):
    """Builds for the GPU at hand alone."""

    def create_config(self, builder: Any, options: BuildOptions) -> Any:
        config = super().create_config(builder, options)
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(self.api.ComputeCapability.CURRENT, 0):
            tell("CURRENT is refused")
        return config


@app.command()
def run(
    model: Annotated[str, typer.Option(help="A model folder or a bundled name.")] = "default",
    engine: Annotated[list[Path] | None, typer.Option(help="Built ahead of time.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write all that was said, as JSON.")] = None,
    limit_s: Annotated[float, typer.Option(min=1, help="Of one attempt.")] = 60,
) -> None:
    """Try each engine and say how far it came."""
    model = str(open_model(model).path.resolve())
    report: dict[str, Any] = {
        "gpu": ", ".join(map(str, gpus())) or "no GPU",
        "gpus": changing()["gpus"],
        "command": shlex.join(sys.argv),
        "attempts": {},
    }
    print(report["gpu"])
    for what in [*map(str, engine or []), *BUILT_HERE]:
        path = what if what in BUILT_HERE else str(Path(what).resolve())
        said, messages, failure = spoken(__file__, "attempt", model, path, limit_s=limit_s)
        ended = failure or "it ran"
        report["attempts"][what] = {"ended": ended, "stages": said.splitlines(), "messages": messages.splitlines()}
        print(f"\n{what}: {ended}\n{said}\n{messages}", flush=True)
        if out:
            with atomic_path(out) as temporary:
                temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")


@app.command()
def attempt(model: str, what: str) -> None:
    """One engine from building or loading to its numbers: stages on stdout, the library's messages on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ds2_deploy.runtime.trt").setLevel(logging.DEBUG)  # all that the library says
    tensorrt = load_runtime("tensorrt-rtx", next(iter(gpus()), None))
    tell(tensorrt.title)
    if what == "current":
        tensorrt = ForThisGpu(tensorrt.name, tensorrt.api, tensorrt.gpu)
    try:
        plan = built(tensorrt, model) if what in BUILT_HERE else Path(what).read_bytes()
    except DS2Error as error:
        raise SystemExit(f"not built: {error}") from error
    compute(tensorrt, model, plan)


def built(tensorrt: TensorRT, model: str) -> bytes:
    folder = open_model(model)
    start = time.perf_counter()
    build = Build(tensorrt, folder.graph("fp32"))
    profiles = make_profiles({i.name: i.shape for i in build.inputs}, BATCH, [SECONDS], folder.metadata)
    plan = bytes(build.plan(profiles, Path("no.timing-cache")))  # which TensorRT-RTX does not have
    tell(f"built: {len(plan) / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s")
    return plan


def compute(tensorrt: TensorRT, model: str, plan: bytes) -> None:
    """Load, run, compare; ends the process where a stage fails."""
    import torch

    from ds2_deploy.runtime.torch_backend import TorchBackend

    if torch.cuda.is_available():
        torch.zeros(1, device="cuda:0")  # the primary context, which the library then uses, too
    log = tensorrt.create_log()
    start = time.perf_counter()
    engine, _runtime = tensorrt.load(plan, log)  # which must outlive it
    if engine is None:
        raise SystemExit("not loaded")
    tell(f"loaded in {time.perf_counter() - start:.1f} s")
    settings = tensorrt.run_settings(engine, b"", few_shapes=False)
    context, stream = tensorrt.create_context(engine, settings), torch.cuda.Stream()
    if context is None or not context.set_optimization_profile_async(0, stream.cuda_stream):
        raise SystemExit("no context")
    folder = open_model(model)
    samples = round(SECONDS.opt * folder.metadata.feature.sample_rate)
    audio = 0.1 * np.random.default_rng(0).standard_normal((2, samples), dtype=np.float32)
    lengths = np.array([samples, samples // 2], np.int64)
    tensors = {name: torch.from_numpy(x).to("cuda:0") for name, x in (("audio", audio), ("audio_lengths", lengths))}
    for name, tensor in tensors.items():
        context.set_input_shape(name, tuple(tensor.shape))
    context.infer_shapes()
    for name, dtype in (("log_probs", torch.float32), ("lengths", torch.int64)):
        tensors[name] = torch.full(tuple(context.get_tensor_shape(name)), -7, dtype=dtype, device="cuda:0")
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())
    torch.cuda.synchronize()
    for _ in range(RUNS):
        start = time.perf_counter()
        if not context.execute_async_v3(stream.cuda_stream):
            raise SystemExit("not run")
        stream.synchronize()
        tell(f"ran in {1000 * (time.perf_counter() - start):.1f} ms")
    expected, got = TorchBackend(folder, device="cpu").run(audio, lengths), tensors["log_probs"].cpu().numpy()
    apart = [float(np.abs(got[i, :n] - expected.log_probs[i, :n]).max()) for i, n in enumerate(expected.lengths)]
    tell(f"furthest from PyTorch on the CPU: {max(apart):.1e} nats; lengths {tensors['lengths'].tolist()}")
    del context  # before what it stands on
    if settings:
        settings.close()


def tell(stage: str) -> None:
    print(stage, flush=True)


if __name__ == "__main__":
    app()
