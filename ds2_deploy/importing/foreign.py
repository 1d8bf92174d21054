"""What the readers of foreign checkpoints share: settings inside stubs, weights by name, batch norms as affine maps.

H hidden size, G gates stacked as PyTorch stacks them.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ds2_deploy.errors import ModelError
from ds2_deploy.importing.unpickler import Stub
from ds2_deploy.model.config import Cell
from ds2_deploy.model.norm import Affine

T = TypeVar("T")
CELLS: dict[int, Cell] = {1: "rnn", 3: "gru", 4: "lstm"}
"""By the gates that PyTorch stacks."""
MOST_NESTED = 8
"""Stubs within stubs; a file may hold one that is its own value."""


def value_of(value: Any) -> Any:
    """The plain value in a stub: of OmegaConf's nodes and containers, enumerations and data classes."""
    for _ in range(MOST_NESTED):
        if not isinstance(value, Stub):
            return value
        state = value.state if isinstance(value.state, dict) else {}
        if "_val" in state or "_content" in state:  # OmegaConf's
            value = state["_val"] if "_val" in state else state["_content"]
        elif state:
            value = state
        elif value.args and not value:
            value = value.args[0]
        else:
            return dict(value)
    return None


def settings_of(value: Any) -> dict[Any, Any]:
    """A group of settings, whatever class it was; none where it is no group."""
    value = value_of(value)
    return value if isinstance(value, dict) else {}


def setting(settings: Mapping[Any, Any], name: str, kind: type[T]) -> T:
    """ModelError where the setting is missing or not of its `kind`; whole numbers will do for float."""
    value = value_of(settings.get(name))
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind):
        raise ModelError(f"its setting {name} is {'missing' if value is None else repr(value)[:60]}")
    return value


def _own(name: str, tensor: Tensor) -> Tensor:
    """The tensor; ModelError where its numbers stand for more than the file holds, which would need memory."""
    if tensor.numel() > tensor.untyped_storage().nbytes() // tensor.itemsize:
        raise ModelError(f"its weights {name} are not all in the file")
    return tensor


class Weights:
    """Tensors of a foreign state dict, in float64, each taken by name; ModelError names what is not as expected."""

    def __init__(self, tensors: Any) -> None:
        tensors = settings_of(tensors)
        prefix = "module." if tensors and all(str(name).startswith("module.") for name in tensors) else ""
        self._left = {
            str(name).removeprefix(prefix): _own(str(name), tensor).double()
            for name, tensor in tensors.items()
            if isinstance(tensor, Tensor) and not str(name).endswith("num_batches_tracked")
        }

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, dims: int) -> Tensor:
        """The tensor, which must have `dims` dimensions."""
        tensor = self._left.pop(name, None)
        if tensor is None or tensor.dim() != dims:
            raise ModelError(f"it has no weights {name}" + ("" if tensor is None else f" of {dims} dimensions"))
        return tensor

    def linear(self, name: str, dims: int = 2) -> dict[str, Tensor]:
        """Weight of `dims` dimensions and bias."""
        return {"weight": self.take(f"{name}.weight", dims), "bias": self.take(f"{name}.bias", 1)}

    def norm(self, name: str, channels: int, eps: float = 1e-5) -> Affine:
        parts = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, variance = (self.take(f"{name}.{part}", 1) for part in parts)
        if any(len(values) != channels for values in (weight, bias, mean, variance)):
            raise ModelError(f"its batch norm {name} has not {channels} channels")
        scale = weight / (variance + eps).sqrt()
        return Affine(scale, bias - mean * scale)

    def direction(self, name: str, suffix: str, norm: Affine | None) -> dict[str, Tensor]:
        """One direction of an nn.RNNBase of one layer, as that of an nn.RNNBase of one direction, behind `norm`."""
        weights = {
            f"{part}_l0": self.take(f"{name}.{part}_l0{suffix}", dims)
            for part, dims in (("weight_ih", 2), ("weight_hh", 2), ("bias_ih", 1), ("bias_hh", 1))
        }
        if norm is not None:
            weights["weight_ih_l0"], weights["bias_ih_l0"] = norm.before(weights["weight_ih_l0"], weights["bias_ih_l0"])
        return weights

    def cell(self, name: str) -> tuple[Cell, int]:
        """What recurrent weights (G H, H), which stay, say: cell and hidden size."""
        weight = self.take(name, 2)
        self._left[name] = weight
        gates, rest = divmod(len(weight), max(weight.shape[1], 1))
        if rest or gates not in CELLS:
            raise ModelError(f"its weights {name} of {tuple(weight.shape)} are of no known cell")
        return CELLS[gates], weight.shape[1]

    def check_all_taken(self) -> None:
        """A weight that nobody asked for is a part of the network that nobody knows."""
        if self._left:
            raise ModelError(f"its weights {', '.join(sorted(self._left)[:3])} belong to no known part of the network")


def named(prefix: str, **parts: Tensor) -> dict[str, Tensor]:
    """Float32 weights by their names below `prefix`."""
    return {f"{prefix}.{name}": tensor.to(torch.float32).contiguous() for name, tensor in parts.items()}
