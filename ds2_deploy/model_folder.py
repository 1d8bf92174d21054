"""Model folders: what `ds2 export` writes and every other command reads."""

import os
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ds2_deploy.errors import ModelError, ModelNotFoundError
from ds2_deploy.files import check_readable
from ds2_deploy.metadata import ModelMetadata

BUNDLED = Path(__file__).parent / "models"
METADATA_FILE = "metadata.json"
WEIGHTS_FILE = "model.safetensors"
TOKENS_FILE = "tokens.txt"
"""The alphabet's labels, for other programs."""
PARITY_FILE = "parity.json"
"""How far the graphs were from the network when they were written."""
LM_FOLDER = "lm"
"""The language model that goes with the model, where it has one."""
ENGINES_FOLDER = "engines"
"""TensorRT's, each with the JSON that describes it."""
BENCH_FILE = "bench.json"
"""The bench report by which `--backend auto` chooses."""
Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Of a model's graphs; in half precision, front end and softmax stay in float32."""


def graph_file(precision: str, *, stream: bool = False) -> str:
    """Name of an ONNX graph in a model folder.

    >>> graph_file("fp32"), graph_file("fp16", stream=True)
    ('model.onnx', 'stream.fp16.onnx')
    """
    return f"{'stream' if stream else 'model'}{'' if precision == 'fp32' else f'.{precision}'}.onnx"


GRAPHS = {graph_file(precision, stream=stream) for precision in PRECISIONS for stream in (False, True)}


class ModelFolder(NamedTuple):
    """A model on disk and what it says about itself."""

    path: Path
    metadata: ModelMetadata

    def graph(self, precision: Precision, *, stream: bool = False) -> Path:
        """The path of an ONNX graph; ModelError where it is missing, which names one of another precision, if any."""
        path = self.path / graph_file(precision, stream=stream)
        if not path.is_file():
            graphs = {graph_file(other, stream=stream): other for other in PRECISIONS}
            there = "".join(f", only {name} for {graphs[name]}" for name in graphs if (self.path / name).is_file())
            cure = f"write it with ds2 export {self.path} --out FOLDER"
            raise ModelError(f"{self.path} holds no {path.name}{there}: {cure}.")
        check_readable(path)
        return path


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"[!.]*/{METADATA_FILE}"))  # no leftovers


def open_model(model: str | os.PathLike[str]) -> ModelFolder:
    """The model of a bundled name (which wins over a folder called the same) or at a path."""
    folder = _find(os.fspath(model))
    if not (folder / METADATA_FILE).is_file():
        trained = folder / "best.pt"
        cure = f"ds2 export {trained} --out MODEL" if trained.is_file() else "ds2 export"
        raise ModelError(f"{folder} is not a model folder: it holds no {METADATA_FILE}; write one with {cure}.")
    return ModelFolder(folder, ModelMetadata.read(folder / METADATA_FILE))


def is_checkpoint(model: str | os.PathLike[str]) -> bool:
    """Whether this names a file of weights, or would if it were there, and neither a folder nor a bundled model."""
    path = Path(model)
    return not path.is_dir() and os.fspath(model) not in bundled_models() and (path.is_file() or path.suffix == ".pt")


def _find(model: str) -> Path:
    bundled = bundled_models()
    path = BUNDLED / model if model in bundled else Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"{path} is a file, not a model folder: if it is a checkpoint, turn it into one by ds2 export."
        )
    names = f"one of the bundled models ({', '.join(bundled)})" if bundled else "a bundled model (none is installed)"
    raise ModelNotFoundError(f"There is no model {model!r}: give the folder that ds2 export wrote, or {names}.")
