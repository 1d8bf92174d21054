"""EngineInfo: the JSON beside a TensorRT engine, which says what it is before anything of it is loaded.

Deserialising an engine runs native code, and an engine serves only the builder's version and the GPUs it was
built for: a loader checks the hash and both, and can say which one differs.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ds2_deploy.errors import EngineError
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model_folder import Precision
from ds2_deploy.structs import read_struct, struct_json

RuntimeName = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, ...]


class ShapeRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes one input may take: any between `min` and `max`, tuned for `opt`."""

    min: Shape
    opt: Shape
    max: Shape


class OptimizationProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shapes an engine accepts together; an engine holds one or several such profiles."""

    inputs: dict[str, ShapeRange]


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output; -1 in the shape is a dimension that varies."""

    name: str
    dtype: str
    """As NumPy spells it: `float32`, `int64`."""
    shape: Shape


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine was built by, for and from."""

    format_version: Literal[1] = 1
    runtime: RuntimeName
    runtime_version: str
    """Version of the builder, which the loading runtime has to match."""
    ds2_version: str
    compute_capability: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\+?$")]
    """GPUs it runs on: `9.0` is that one alone, `8.0+` that one and later."""
    gpu: str | None
    """The GPU it was tuned on; None where it was built ahead of time."""
    source: str
    """Name of the ONNX file in the model folder."""
    source_sha256: str
    sha256: str
    """Of the engine itself."""
    size_bytes: int
    precision: Precision
    tf32: bool = False
    """Whether float32 products may be rounded to TF32, which spoils the spectrogram."""
    version_compatible: bool = False
    """Whether later versions of the runtime may load it, too."""
    profiles: tuple[OptimizationProfile, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    build_s: float
    """Seconds that parsing and building took."""
    metadata: ModelMetadata

    def write(self, path: Path) -> None:
        path.write_text(struct_json(self) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "EngineInfo":
        """Parse; EngineError says what is wrong with the file."""
        return read_struct(path, cls, EngineError, "does not describe an engine", "; build the engine again")
