"""One recurrent layer of two directions, computed in four ways, beside what its products and its steps take at least.

    python benchmarks/recurrent_forms.py [--cell gru] [--size 800] [--frames T]... [--batch B]... [--device cuda:0]
        [--half] [--save] [--out FOLDER]

loop      every frame multiplies its input and the state before it, one direction after the other
hoisted   the input products of all frames at once, then the loop
both      hoisted, and both directions side by side in one loop: what `ds2 export --recurrence loop` writes
library   PyTorch's own layer: cuDNN on a GPU, oneDNN or the products of ATen on a CPU

On a GPU the loops are captured as CUDA graphs, so that they cost what their kernels cost there and not their launches.
All ways are compared with the library's numbers before they are timed, and take turns; medians. One that fails is told
with its reason, and the others go on.

Two floors stand beside them. `products` is counted: two operations for each multiplication and addition, and the
recurrent weights read once a frame, at the rates that this device reaches in the same run. `steps` is measured: one
kernel of almost no work for each frame, which any loop takes that is not a kernel itself. A fused kernel, which keeps
weights and state on the chip through all frames, has only the first.

--save writes benchmarks/results/recurrent_forms-DEVICE-CELL-SIZE-PRECISION.json after every row, --out the same into
FOLDER.
"""

import itertools
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from cpu_offline import GATES
from machine import RESULTS, interleaved, machine, save_result
from torch import Tensor, nn

from ds2_deploy.bench.environment import changing
from ds2_deploy.errors import reason_of
from ds2_deploy.model.cells import plain_step, run_steps

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
TURNS = 5
SEED = 2026
LARGE = {"cpu": 1536, "cuda": 8192}
"""Rows of the square matrices whose product shows a device's rate."""
Way = Callable[[], object]


class Layer:
    """A layer of two directions with the same weights in every form, and its input."""

    def __init__(self, cell: str, size: int, frames: int, batch: int, device: str, dtype: torch.dtype) -> None:
        made = {"device": device, "dtype": dtype}
        self.whole = CELLS[cell](size, size, bidirectional=True, **made)  # type: ignore[arg-type]
        self.directions = [CELLS[cell](size, size, **made) for _ in range(2)]  # type: ignore[arg-type]
        weights = self.whole.state_dict()
        for suffix, one in zip(("", "_reverse"), self.directions, strict=True):
            one.load_state_dict({name: weights[name + suffix] for name in one.state_dict()})
        self.x = torch.randn(frames, batch, size, **made)  # type: ignore[call-overload]
        self.inputs = self.x, self.x.flip(0)

    def loop(self) -> Tensor:
        outputs = []
        for rnn, x in zip(self.directions, self.inputs, strict=True):
            step, zeros = plain_step(rnn), x.new_zeros(1, x.shape[1], rnn.hidden_size)
            state, told = (zeros, zeros), []
            for frame in x.unbind():
                below = nn.functional.linear(frame, rnn.weight_ih_l0, rnn.bias_ih_l0)
                above = nn.functional.linear(state[0], rnn.weight_hh_l0, rnn.bias_hh_l0)
                state = step(below[None], above, state)  # type: ignore[assignment]
                told.append(state[0][0])
            outputs.append(torch.stack(told))
        return self.joined(outputs)

    def hoisted(self) -> Tensor:
        pairs = zip(self.directions, self.inputs, strict=True)
        return self.joined([run_steps([rnn], [x])[0][:, 0] for rnn, x in pairs])

    def both(self) -> Tensor:
        return self.joined(list(run_steps(self.directions, self.inputs)[0].unbind(1)))

    def library(self) -> Tensor:
        output: Tensor = self.whole(self.x)[0]
        return output

    @staticmethod
    def joined(outputs: list[Tensor]) -> Tensor:
        """(T, B, H) of each direction -> (T, B, 2 H), as PyTorch has it."""
        return torch.cat([outputs[0], outputs[1].flip(0)], dim=-1)

    def steps(self) -> Tensor:
        """A kernel for each frame that waits for the one before it."""
        state = self.x[0, 0, :1].clone()
        for _ in range(len(self.x)):
            state.add_(1)
        return state


def captured(way: Callable[[], Tensor], device: str) -> Way:
    """On a GPU: the same kernels as one CUDA graph, and the wait for their end."""
    if device == "cpu":
        return way
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        way()  # what is chosen and allocated in a first call must not be captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way()
    return waited(graph.replay, device)


def waited(way: Way, device: str) -> Way:
    def run() -> None:
        way()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def products_ms(cell: str, size: int, frames: int, batch: int, rates: tuple[float, float], width: int) -> float:
    """The counted floor: `rates` are operations and bytes in a second, `width` is a number's bytes."""
    weights = 2 * GATES[cell] * size * size  # of both directions; as many again for the input
    products = 2.0 * frames * batch * weights / rates[0]
    return 1000 * (products + max(products, frames * weights * width / rates[1]))


def reached(rows: int, columns: int, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Operations in a second of a large product, and bytes in a second of the recurrent weights by a vector, again and
    again; the best of ten."""
    size = LARGE[torch.device(device).type]
    large, matrix = (torch.rand(shape, device=device, dtype=dtype) for shape in ((size, size), (rows, columns)))
    vector, again = torch.rand(columns, device=device, dtype=dtype), 50

    def product() -> Tensor:
        return large @ large

    def readings() -> Tensor:
        for _ in range(again):
            read = matrix @ vector
        return read

    times = interleaved({way.__name__: captured(way, device) for way in (product, readings)}, 10)
    return 2.0 * size**3 / min(times["product"]), again * matrix.nbytes / min(times["readings"])


@torch.inference_mode()
def measured(cell: str, size: int, frames: int, batch: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Milliseconds of each way and both floors; `failed` has the reasons of ways that do not run, or whose numbers are
    not the library's."""
    layer = Layer(cell, size, frames, batch, device, dtype)
    expected, allowed = layer.library(), 1e-4 if dtype == torch.float32 else 2e-2
    taken, failed = {"library": waited(layer.library, device)}, {}
    for name in ("loop", "hoisted", "both", "steps"):
        way: Callable[[], Tensor] = getattr(layer, name)
        try:
            if name != "steps" and not (apart := (way() - expected).abs().max().item()) < allowed:
                raise ArithmeticError(f"{apart:.1e} from the library")
            taken[name] = captured(way, device)
        except (ArithmeticError, RuntimeError) as error:  # the second is PyTorch's, also for want of memory
            failed[name] = reason_of(error)
    times = interleaved(taken, TURNS)
    rates = reached(2 * len(layer.directions[0].weight_hh_l0), size, device, dtype)
    floor = products_ms(cell, size, frames, batch, rates, dtype.itemsize)
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    shown = {name: round(value, 3) for name, value in {**medians, "products": floor}.items()}
    reached_here = {"gflops": round(rates[0] / 1e9), "gbytes": round(rates[1] / 1e9)}
    return {"frames": frames, "batch": batch, **shown, **reached_here, **({"failed": failed} if failed else {})}


def main(
    cell: Annotated[str, typer.Option(metavar="gru|lstm")] = "gru",
    size: Annotated[int, typer.Option(min=1, help="Units of a direction, and of its input.")] = 800,
    frames: Annotated[list[int] | None, typer.Option(min=1, help="Usually 200, 500, 1000, 1500.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Usually 1, 8, 32, 256.")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda:N")] = "cpu",
    half: Annotated[bool, typer.Option("--half", help="In float16.")] = False,
    save: Annotated[bool, typer.Option("--save")] = False,
    out: Annotated[Path | None, typer.Option(help="Save into this folder.")] = None,
) -> None:
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    columns = ("loop", "hoisted", "both", "library", "steps", "products")
    print(f"{cell}, 2 directions of {size}, milliseconds\n\n| T × B | {' | '.join(columns)} |\n|---|" + "---|" * 6)
    dtype, rows = torch.float16 if half else torch.float32, []
    name = f"recurrent_forms-{torch.device(device).type}-{cell}-{size}-{'fp16' if half else 'fp32'}"
    result = {"machine": about(device) if save or out else {}, "cell": cell, "size": size, "half": half, "rows": rows}
    for length, several in itertools.product(frames or [200, 500, 1000, 1500], batch or [1, 8, 32, 256]):
        try:
            row = measured(cell, size, length, several, device, dtype)
        except RuntimeError as error:  # of PyTorch, such as for want of memory: other sizes may do
            row = {"frames": length, "batch": several, "failed": {"all": reason_of(error)}}
        rows.append(row)
        cells = (f"{row[column]:.2f}" if column in row else "" for column in columns)
        print(f"| {length} × {several} | {' | '.join(cells)} |", flush=True)
        for way, reason in row.get("failed", {}).items():
            print(f"{way} failed: {reason}", file=sys.stderr)
        if save or out:
            save_result(name, result, out or RESULTS)


def about(device: str) -> dict[str, Any]:
    """Where it was measured, and by which command."""
    found = machine() | {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
    if device != "cpu":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "gpus": changing()["gpus"]}
    return found | {"command": shlex.join(sys.argv)}


if __name__ == "__main__":
    typer.run(main)
