"""ModelMetadata: what every artifact says about itself.

The same JSON travels inside the checkpoint, in the ONNX file's `metadata_props` (key `ds2`), as
`metadata.json` in the model folder and beside an engine, so that nobody is asked for a sample rate twice.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ds2_deploy.audio.features import FeatureConfig, FeatureStatistics
from ds2_deploy.errors import ModelError
from ds2_deploy.files import read_bytes
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.structs import parse_struct, struct_json
from ds2_deploy.text.alphabet import ENGLISH, Alphabet

FORMAT_VERSION = 1
ONNX_KEY = "ds2"
HEARD_BY = "heard by windows of "
"""In `Provenance.recipe`, before the windows, where they are others than those of the training."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights come from."""

    ds2_version: str = ""
    recipe: str = ""
    """Name of the recipe; the checkpoint holds all its values. Of a mean of several trainings' weights: which."""
    train: tuple[str, ...] = ()
    """Training manifests: folder and file name of each."""
    seed: int = 0
    epochs: int = 0
    """Epochs these weights were trained for; 0 for a mean."""
    audio_hours: float = 0.0
    """Of `train`'s manifests, each once; 0 where unknown, as of a mean."""
    valid_wer: float | None = None
    """Word error rate on the validation set, as a fraction; of phonemes, where the language is written in them."""
    valid_cer: float | None = None
    """Character error rate on the validation set, as a fraction."""


class Delay(NamedTuple):
    """How far behind the middle of its window an output frame can come at the earliest, however fast the machine."""

    half_window_s: float
    """The later half of the analysis window."""
    convolutions_s: float
    """What the convolutions see to the right."""
    lookahead_s: float
    """What the lookahead convolution waits for, or a window's first frame for the end of its context."""


class _Versioned(msgspec.Struct, frozen=True):
    """What can be read of the metadata of any version."""

    format_version: Any


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything needed to run a model and to know what it is."""

    format_version: int = FORMAT_VERSION
    name: str = ""
    language: str = "en"
    feature: FeatureConfig = FeatureConfig()
    statistics: FeatureStatistics | None = None
    """Present exactly when `feature.normalization` is `global` or `running`."""
    alphabet: Alphabet = ENGLISH
    model: ModelConfig = ModelConfig()
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        if (self.statistics is not None) != self.feature.needs_statistics:
            raise ValueError(
                f"feature.normalization is {self.feature.normalization!r} and statistics are "
                f"{'present' if self.statistics else 'missing'}: 'global' and 'running' need them, nothing else does"
            )
        if self.statistics and {len(self.statistics.mean), len(self.statistics.deviation)} != {self.feature.bins}:
            raise ValueError(
                f"statistics hold {len(self.statistics.mean)} means and {len(self.statistics.deviation)} deviations, "
                f"the features {self.feature.bins} bins"
            )
        self.model.rnn_input_size(self.feature.bins)  # raises where the convolutions leave nothing

    @property
    def frame_s(self) -> float:
        """Seconds of audio per output frame."""
        return self.model.subsampling * self.feature.hop_samples / self.feature.sample_rate

    def output_frames(self, samples: int) -> int:
        """Rows of `log_probs` that belong to a recording of `samples` samples."""
        return self.model.output_frames(self.feature.frames(samples))

    @property
    def min_samples(self) -> int:
        """The shortest input the graph accepts; shorter recordings are padded with zeros, lengths unchanged."""
        feature = self.feature
        frames = 1
        for layer in reversed(self.model.conv):  # frames that give one frame after this convolution
            frames = (frames - 1) * layer.stride[1] + layer.kernel[1] - 2 * layer.padding[1]
        samples = (frames - 1) * feature.hop_samples + feature.window_samples - sum(feature.padding)
        return max(samples, 1)  # a centred window fits into its own padding, but nothing has no frame

    @property
    def streaming_obstacles(self) -> tuple[str, ...]:
        """Why this model cannot transcribe live, each as half a sentence; empty where it can."""
        obstacles, normalization = [], self.feature.normalization
        if self.feature.by_utterance:
            obstacles.append(f"feature.normalization is {normalization!r}, which needs the whole recording")
        if self.feature.power_normalize:
            obstacles.append("feature.power_normalize is true, which needs the whole recording")
        if self.feature.peak_normalize:
            obstacles.append("feature.peak_normalize is true, which needs the whole recording")
        if self.feature.reflect:
            obstacles.append("feature.reflect is true, which needs the end of the recording")
        if self.feature.deltas:
            obstacles.append(f"feature.deltas is {self.feature.deltas}: differences look ahead")
        if any(layer.same for layer in self.model.conv):
            obstacles.append("model.conv has same = true, which needs the length of the recording")
        if self.model.bidirectional and not self.model.window:
            obstacles.append("model.bidirectional is true: the backward direction starts at the end")
        return tuple(obstacles)

    def check_can_stream(self, name: object) -> None:
        """ModelError where the model called `name` cannot, with what stands in the way."""
        if self.streaming_obstacles:
            raise ModelError(f"{name} cannot stream: {'; '.join(self.streaming_obstacles)}. Choose a streaming model.")

    def check_graph(self, inside: str, path: Path) -> None:
        """ModelError where `inside`, the JSON in the ONNX file `path`, is of another network: with the metadata.json of
        another model, a graph would give wrong text without a word."""
        graph = ModelMetadata.from_json(inside, str(path))
        for name in ("feature", "statistics", "alphabet", "model"):
            if getattr(graph, name) != getattr(self, name):
                raise ModelError(
                    f"{path} was exported with another {name} than metadata.json says: export the model again."
                )

    def with_windows(self, window: int | None, context: int | None, name: object) -> "ModelMetadata":
        """The same for other windows of the backward direction, which have no weights; None: as many frames as before.

        Its provenance says so, and forgets an error rate that was measured with others. ModelError where the model
        called `name` has no backward direction, or cannot stream with windows either.
        """
        given = {"window": window, "window_context": context}
        try:
            model = msgspec.structs.replace(self.model, **{key: n for key, n in given.items() if n is not None})
        except ValueError as error:
            raise ModelError(f"{name} cannot have these windows: {error}.") from error
        made = self.provenance
        if model != self.model:
            trained = made.recipe.partition(HEARD_BY)[0].removesuffix(", ")
            heard = f"{HEARD_BY}{model.window} + {model.window_context}"
            recipe = ", ".join(filter(None, (trained, heard)))
            made = msgspec.structs.replace(made, recipe=recipe, valid_wer=None, valid_cer=None)
        metadata = msgspec.structs.replace(self, model=model, provenance=made)
        metadata.check_can_stream(name)
        return metadata

    @property
    def stream_unit_s(self) -> float:
        """The shortest chunk of a stream, of which others are multiples, in seconds."""
        return self.stream_unit_samples / self.feature.sample_rate

    @property
    def stream_unit_samples(self) -> int:
        """Samples per output frame, or per window of them: a stream's chunks are whole multiples of it."""
        return max(self.model.window, 1) * self.model.subsampling * self.feature.hop_samples

    def stream_chunk_samples(self, chunk_ms: float = 100.0) -> int:
        """The chunk of a stream: `chunk_ms`, rounded up to whole output frames or windows."""
        wanted = chunk_ms * self.feature.sample_rate / 1000
        return max(math.ceil(wanted / self.stream_unit_samples), 1) * self.stream_unit_samples

    @property
    def delay(self) -> Delay | None:
        """Algorithmic delay, part by part; None where the end must be known."""
        if self.streaming_obstacles:
            return None
        frames, stride = 0, 1
        for layer in self.model.conv:  # right context, in feature frames
            frames += (layer.kernel[1] - 1 - layer.padding[1]) * stride
            stride *= layer.stride[1]
        return Delay(
            half_window_s=self.feature.window_ms / 2000,
            convolutions_s=frames * self.feature.hop_ms / 1000,
            lookahead_s=self.model.future * self.frame_s,
        )

    @property
    def delay_s(self) -> float | None:
        """The whole algorithmic delay."""
        return sum(self.delay) if self.delay else None

    def to_json(self) -> str:
        return struct_json(self)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> "ModelMetadata":
        """Parse; ModelError names `source`, the field and the value."""
        other = f"{source} is not the metadata of a ds2 model"
        version = parse_struct(text, _Versioned, ModelError, other, "; export the model again").format_version
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{source} has format version {version}, this ds2_deploy reads {FORMAT_VERSION}: "
                "upgrade ds2_deploy, or export the model again with this one."
            )
        return parse_struct(text, cls, ModelError, f"{source} does not describe a model")

    @classmethod
    def read(cls, path: Path) -> "ModelMetadata":
        return cls.from_json(read_bytes(path, ModelError), str(path))
