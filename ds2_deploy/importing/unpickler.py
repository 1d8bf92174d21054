"""Files of torch.save from anywhere, read without running anything in them.

A pickle is a program: it may name any function and have it called. This reader knows tensors, their storages and
ordered dictionaries; whatever else a file names becomes a stub, which keeps what it is given and does nothing.
"""

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ds2_deploy.errors import ModelError, ModelNotFoundError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the pickles in a file of PyTorch before 1.6, which wrote no zip archives."""
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, ValueError, LookupError, TypeError, AttributeError,
    EOFError, OSError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip
"""What reading nonsense raises."""


class Stub(dict[Any, Any]):
    """Stands for an object of a class that is not loaded: its items, arguments and state."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> "Stub":
        stub = super().__new__(cls)
        stub.args, stub.state = args, None
        return stub

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def extend(self, items: Any) -> None:
        self.args += tuple(items)

    def append(self, item: Any) -> None:
        self.args += (item,)

    __hash__ = object.__hash__  # type: ignore[assignment]


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """What torch._utils._rebuild_tensor_v2 makes; as_strided refuses what lies outside the storage.

    It may have more numbers than its storage, as `expand` makes them: whoever copies it looks at that first.
    """
    return storage.as_strided(size, stride, offset)


class Dictionary(OrderedDict[Any, Any]):
    """An ordered dictionary with the methods of one, whatever attributes a file gives it."""

    def __setstate__(self, state: Any) -> None:
        pass


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{(module, name): dtype for name, dtype in STORAGES.items() for module in ("torch", "torch.cuda")},
}


class Unpickler(pickle.Unpickler):
    """Builds tensors, plain values and stubs. `storage(key, dtype, count)` finds the numbers of a tensor."""

    def __init__(self, file: IO[bytes], storage: Callable[[str, torch.dtype, int], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        return KNOWN.get((module, name)) or type(name, (Stub,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class with its source text, in legacy files
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise pickle.UnpicklingError("not a storage of its own")
        return self._storage(key, dtype, count)


def read_foreign(path: Path) -> Any:
    """What `torch.save` wrote to `path`: tensors, plain values, and stubs for all else."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no checkpoint {path}.")
    with path.open("rb") as file:
        try:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        except DAMAGE as error:
            raise ModelError(f"{path} is not a checkpoint of PyTorch, or it is damaged.") from error


def _read_zip(file: IO[bytes]) -> Any:
    """PyTorch 1.6 and later: NAME/data.pkl, and every storage as NAME/data/KEY."""
    with zipfile.ZipFile(file) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.removesuffix(".pkl")
        loaded: dict[str, Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in loaded:
                loaded[key] = _numbers(archive.read(f"{folder}/{key}"), dtype, count)
            return loaded[key]

        return Unpickler(io.BytesIO(archive.read(pickled)), storage).load()


def _read_legacy(file: IO[bytes]) -> Any:
    """Pickles of magic number, protocol, machine, content and the storages' keys, then the storages in that order."""
    kept: dict[str, Tensor] = {}
    size = file.seek(0, io.SEEK_END)
    file.seek(0)

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        return kept.setdefault(key, torch.empty(min(count, size // dtype.itemsize), dtype=dtype))

    if Unpickler(file, storage).load() != LEGACY_MAGIC:
        raise pickle.UnpicklingError("another kind of file")
    _protocol, _machine, content, keys = (Unpickler(file, storage).load() for _ in range(4))
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        numbers = kept[key]
        numbers.copy_(_numbers(file.read(count * numbers.itemsize), numbers.dtype, len(numbers)))
    return content


def _numbers(content: bytes, dtype: torch.dtype, count: int) -> Tensor:
    if len(content) != count * dtype.itemsize:
        raise pickle.UnpicklingError("a tensor's numbers are cut short")
    return torch.frombuffer(bytearray(content), dtype=dtype) if count else torch.empty(0, dtype=dtype)
