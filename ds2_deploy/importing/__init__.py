"""`ds2 import`: checkpoints of other DeepSpeech2 codes, as networks of this one that compute the same.

Each layout is a module with `recognizes(content)` and `convert(content)`; the unpickler reads files without running
anything in them.
"""

from pathlib import Path

import msgspec
from torch import Tensor

from ds2_deploy.errors import DS2Error, ModelError
from ds2_deploy.importing import deepspeech_pytorch, thesis
from ds2_deploy.importing.foreign import settings_of
from ds2_deploy.importing.unpickler import read_foreign
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.checkpoint import Checkpoint

LAYOUTS = (deepspeech_pytorch, thesis)


def import_checkpoint(path: Path, *, language: str = "en") -> Checkpoint:
    """The network in the foreign file `path`; ModelError where it is of no known layout, or cannot be mapped exactly.

    A batch norm is multiplied into the weights beside it, so the network has none.
    """
    content = settings_of(read_foreign(path))
    layout = next((layout for layout in LAYOUTS if layout.recognizes(content)), None)
    if layout is None:
        reason = "is a checkpoint of ds2 already" if "ds2" in content else "holds none of the layouts that are known"
        raise ModelError(f"{path} {reason}: ds2 import reads {' and '.join(layout.NAME for layout in LAYOUTS)}.")
    try:
        metadata, weights = layout.convert(content)
        _check_sizes(metadata, weights)
        metadata = msgspec.structs.replace(metadata, name=path.stem, language=language)
        checkpoint = Checkpoint(metadata=metadata, weights=weights)
        checkpoint.model()
    except (DS2Error, ValueError, TypeError, ArithmeticError) as error:
        raise ModelError(f"{path} cannot be imported: {str(error).rstrip('.')}.") from error
    except RuntimeError as error:  # of torch, about shapes
        raise ModelError(f"{path} cannot be imported: its weights do not fit each other.") from error
    return checkpoint


def _check_sizes(metadata: ModelMetadata, weights: dict[str, Tensor]) -> None:
    """Where features, labels and weights come from different places, or weights are no numbers, in words."""
    if strange := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise ModelError(f"its weights {strange[0]} are not all finite numbers")
    reads = weights["encoder.rnn.0.forward_rnn.weight_ih_l0"].shape[1]
    gives = metadata.model.rnn_input_size(metadata.feature.bins)
    if reads != gives:
        raise ModelError(
            f"its first recurrent layer reads {reads} values per frame, and the convolutions give {gives}: "
            "earlier versions of that code padded them otherwise"
        )
    outputs = len(weights["encoder.output.weight"])
    if outputs != len(metadata.alphabet):
        raise ModelError(f"it has {outputs} outputs and {len(metadata.alphabet)} labels")
