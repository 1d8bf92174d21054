"""Checkpoints and weights on disk. Nothing here executes what a file says: tensors and plain values only."""

import errno
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ds2_deploy.errors import ModelError, ModelNotFoundError, reason_of
from ds2_deploy.files import atomic_path, check_readable
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model_folder import WEIGHTS_FILE, ModelFolder, is_checkpoint, open_model


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model and, for resuming, the state of its training."""

    metadata: ModelMetadata
    weights: dict[str, Tensor]
    """The network's state dict."""
    training: dict[str, Any] = field(default_factory=dict)
    """Owned by training/trainer.py: optimizer, schedule, scaler, position, and what must be the same."""
    name: str = "The checkpoint"
    """What messages call it: where it was read, its path."""

    def save(self, path: Path) -> None:
        """Write atomically; the previous file survives a full disk."""
        content = {"ds2": self.metadata.to_json(), "weights": self.weights, "training": self.training}
        with atomic_path(path) as temporary:
            _save(content, temporary)

    def without_training(self) -> "Checkpoint":
        """The model alone, at a third of the size: nothing can resume from it."""
        return Checkpoint(metadata=self.metadata, weights=self.weights)

    def model(self) -> DeepSpeech2:
        """The network with these weights, in evaluation mode."""
        model = DeepSpeech2(self.metadata)
        self.fill(model, self.weights)
        return model.eval()

    def fill(self, model: DeepSpeech2, weights: dict[str, Tensor]) -> None:
        """Give `model` weights of this; ModelError where they are not those of its architecture."""
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{self.name} does not fit its own metadata: {reason}") from error


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # torch's zip writer reports a full disk so
        raise OSError(errno.ENOSPC, f"no space left or the write failed ({reason_of(error)})") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read with `weights_only=True`: a file from elsewhere cannot run code."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no checkpoint {path}.")
    check_readable(path)
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is not a ds2 checkpoint: expected a file written by ds2 train.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        header, weights, training = content["ds2"], dict(content["weights"]), dict(content["training"])
        if not isinstance(header, str) or not all(map(_is_weight, weights.items())):
            raise TypeError("no metadata, or no tensors by name")
    except (
        pickle.UnpicklingError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, ValueError
    ) as error:  # fmt: skip
        raise ModelError(f"{path} is not a ds2 checkpoint, or it is damaged: expected a file of ds2 train.") from error
    metadata = ModelMetadata.from_json(header, str(path))
    return Checkpoint(metadata=metadata, weights=weights, training=training, name=str(path))


def _is_weight(item: tuple[object, object]) -> bool:
    """Whether a tensor stands under a name."""
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def save_weights(model: DeepSpeech2, path: Path) -> None:
    """model.safetensors: the network's weights in float32, those that two layers share twice."""
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(weights))  # its save_file writes files that only their owner can read


def load_weights(folder: ModelFolder) -> Checkpoint:
    """Of a model folder."""
    path = folder.path / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Cannot read the weights {path}: export the model again.") from error
    return Checkpoint(metadata=folder.metadata, weights=weights, name=str(path))


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """A checkpoint file, or the weights of a model folder or a bundled model."""
    return load_checkpoint(Path(source)) if is_checkpoint(source) else load_weights(open_model(source))


def load_model(source: str | os.PathLike[str]) -> DeepSpeech2:
    """The network of the same, in evaluation mode."""
    return open_checkpoint(source).model()
