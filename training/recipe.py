"""Recipe: everything that decides a training, in one TOML file."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import msgspec

from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.errors import ConfigError
from ds2_deploy.model.config import ModelConfig
from ds2_deploy.ranges import (
    DROPOUT,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    Range,
    at_least,
    between,
    check_ranges,
)
from ds2_deploy.text.alphabet import Alphabet
from ds2_deploy.text.languages import language_named

RECIPES = Path(__file__).parent / "recipes"
WRITTEN = "# Written by ds2 train: the recipe as it was used, --set included."
MAX_WORKERS = 64  # each is a process of a quarter of a gigabyte
SEED = Range(lambda x: 0 <= x < 2**63, "between 0 and 2^63 - 1")
MASK = Range(lambda x: 0 <= x < 10_000, "at least 0 and below 10000")


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Variation of the training recordings; drawn from (seed, epoch, utterance), `windows` from (seed, epoch, step).
    Never for validation."""

    speeds: tuple[float, ...] = (1.0,)
    """One is drawn per utterance; pitch and tempo change together (Ko et al. 2015)."""
    gain_db: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest change of level; where it is not normalised away a network must learn not to mind it."""
    time_masks: int = 0
    """SpecAugment (Park et al. 2019): this many stretches of up to `time_mask_frames` feature frames."""
    time_mask_frames: int = 15
    time_mask_share: float = 0.2
    """A stretch is never longer than this share of the utterance."""
    frequency_masks: int = 0
    frequency_mask_bins: int = 12
    noise: str = ""
    """A folder of recordings, or a manifest of some, to take background noise from."""
    noise_probability: float = 0.0
    """Share of the utterances that get noise."""
    snr_db: tuple[float, float] = (5.0, 25.0)
    """Lowest and highest ratio of the powers of a recording and noise. Silence around it and pauses count, which the
    recipes' values allow for: the words themselves are some 3 dB further above the noise, single digits 6."""
    reverb: str = "simulated"
    """Rooms: `simulated`, or a folder or a manifest of impulse responses."""
    reverb_probability: float = 0.0
    reverb_s: tuple[float, float] = (0.1, 0.5)
    """Shortest and longest time in which a simulated room's sound falls by 60 dB."""
    telephone_probability: float = 0.0
    """Share of the utterances that are heard as a telephone has them: nothing above 4 kHz."""
    silence_probability: float = 0.0
    """Share of the utterances with silence around them, as a recorder that is switched on and off by hand leaves it."""
    silence_s: tuple[float, float] = (0.0, 2.0)
    """Least and most of it, before and, drawn anew, after."""
    joined_probability: float = 0.0
    """Share of the utterances after which others follow in the same recording, whoever says them. A network that
    streams hears one utterance after the other; one that has learnt from single ones hears the later ones worse."""
    joined: int = 3
    """How many follow at most. An epoch gets longer by joined_probability (joined + 1) / 2 times its length."""
    pause_s: tuple[float, float] = (0.1, 1.5)
    """Shortest and longest pause before each of them: noise as loud as the quietest of the recording before it."""
    windows: tuple[tuple[int, int], ...] = ()
    """One is drawn per step: `model.window` and `model.window_context`, which must be among them, or others; [0, 0] is
    the whole recording. So a network learns to answer after one delay and after others (Zhang et al. 2020, "Unified
    streaming and non-streaming two-pass end-to-end model for speech recognition", arXiv 2012.05481, has such chunks of
    attention). Empty: the network's own."""
    consistency: float = 0.0
    """Weight of how far the network's answers to two views of an utterance lie apart, hidden in different places
    (CR-CTC: Yao et al. 2024, "CR-CTC: Consistency regularization on CTC for improved speech recognition", section 3.2,
    where it is 0.2). 0: there is one view, which costs half as much."""
    feature_noise: Literal["none", "gaussian", "gumbel"] = "none"
    """Noise of mean zero on the normalised features of some utterances."""
    feature_noise_probability: float = 0.5
    feature_noise_deviation: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(
            self, "augment.",
            time_masks=MASK, time_mask_frames=MASK, time_mask_share=SHARE,
            frequency_masks=MASK, frequency_mask_bins=MASK,
            noise_probability=SHARE, reverb_probability=SHARE, telephone_probability=SHARE, silence_probability=SHARE,
            joined_probability=SHARE, joined=between(1, 100), consistency=NOT_NEGATIVE,
            feature_noise_probability=SHARE, feature_noise_deviation=NOT_NEGATIVE,
        )  # fmt: skip
        if self.noise_probability and not self.noise:
            raise ValueError("augment.noise is empty: noise_probability needs a folder or a manifest of noise")
        if self.reverb_probability and not self.reverb:
            raise ValueError('augment.reverb is empty: reverb_probability needs "simulated", a folder or a manifest')
        for name, least, most in (
            ("gain_db", -100, 100), ("snr_db", -50, 100),
            ("reverb_s", 0.01, 5), ("silence_s", 0, 60), ("pause_s", 0.05, 60),
        ):  # fmt: skip
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"augment.{name} is {(low, high)}: it is the lowest and the highest, within {least} and {most}"
                )
        for size, context in self.windows:
            if min(size, context) < 1 and (size, context) != (0, 0):
                raise ValueError(
                    f"augment.windows has {[size, context]}: both must be at least 1, or both 0 for whole recordings"
                )
        if not self.speeds or not all(0.25 <= speed <= 4 for speed in self.speeds):
            raise ValueError(f"augment.speeds is {self.speeds}: it needs at least one factor, each between 0.25 and 4")

    @property
    def views(self) -> int:
        """How often an utterance is in its batch, hidden in other places each time."""
        return 2 if self.consistency else 1


class TeacherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another model that says what it hears, frame by frame, while this one learns (training/teacher.py)."""

    model: str
    """A checkpoint, a model folder or a bundled model."""
    share: float = 0.5
    """Of the divergence from its answers in the loss; CTC has the rest. At 1.0 the loss ignores transcripts, which are
    still read and checked."""
    later_frames: int = 0
    """How many output frames after the teacher the learner answers: waiting gives a network that hears less of the
    future some of the sound it lacks. Its letters, and the times of words, come that much later."""

    def __post_init__(self) -> None:
        check_ranges(self, "teacher.", share=POSITIVE_SHARE, later_frames=between(0, 100))
        if self.later_frames and self.share == 1:
            raise ValueError(
                "teacher.share is 1.0: with later_frames it must be below 1, since only CTC says what the first frames "
                "are to be"
            )


class OptimizerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a gradient becomes a step."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """`adamw`: decay apart from the gradient (Loshchilov and Hutter 2019); `adam`: decay as an L2 term of the loss;
    `sgd`: Nesterov's momentum, as in the paper, section 6, with an L2 term."""
    learning_rate: float = 1.5e-3
    """The highest; the schedule says when."""
    momentum: float = 0.99
    """Of `sgd`."""
    weight_decay: float = 1e-2
    """Of matrices; biases and normalisation are left alone."""
    clip_norm: float = 20.0

    def __post_init__(self) -> None:
        check_ranges(
            self, "optimizer.",
            learning_rate=POSITIVE, momentum=Range(lambda x: 0 < x < 1, "above 0 and below 1"),
            weight_decay=NOT_NEGATIVE, clip_norm=POSITIVE,
        )  # fmt: skip


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learning rate as a share of `optimizer.learning_rate`; see training/schedules.py for the formulas."""

    name: Literal["one_cycle", "constant", "cosine", "polynomial", "exponential", "plateau"] = "one_cycle"
    warmup: float = 0.1
    """Share of all optimizer steps in which the rate rises, linearly but for `one_cycle`."""
    decay: float = 0.8
    """Factor of an epoch (`exponential`), or of an epoch that ends a plateau (`plateau`)."""
    power: float = 1.0
    """Of `polynomial`: 1 is a straight line to zero."""
    patience: int = 2
    """Of `plateau`: epochs in a row without a better validation result, or a lower validation loss, that are let pass;
    the next one lowers the rate. `selection.patience` must be at least two above it, or the training ends before."""

    def __post_init__(self) -> None:
        check_ranges(self, "schedule.", warmup=SHARE, decay=POSITIVE_SHARE, power=POSITIVE, patience=at_least(0))


class SelectionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which epochs are kept, and when a training has learnt enough."""

    by: Literal["wer", "cer", "loss"] | None = None
    """The validation result that makes one epoch better than another; None: the language's error rate, which for
    Chinese is that of characters."""
    keep: int = 1
    """Checkpoints of the best epochs; with more than one, average.pt holds the mean of their weights."""
    patience: int | None = None
    """Stop after this many epochs in a row without a better validation result, or a lower validation loss: error rates
    stand still while CTC says blanks. None: never."""

    def __post_init__(self) -> None:
        check_ranges(self, "selection.", keep=between(1, 100), patience=at_least(1))


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named training."""

    name: str
    language: str = "en"
    """How transcripts are spelled: one of ds2_deploy/text/languages.py."""
    alphabet: str = " 'abcdefghijklmnopqrstuvwxyz"
    """The characters with a label each; the CTC blank is put before them. Empty: those of all transcripts,
    or, where the language has labels of its own (phonemes), those."""
    epochs: int = 75
    batch_size: int = 16
    """Most utterances in a batch, over all processes together. With `batch_seconds` the shortest ones' may hold more,
    though fewer than two for each process, where what is over is too little to give each process one."""
    batch_seconds: float | None = None
    """Most seconds of a batch, padding included and before `augment.speeds` change them; None: no limit but
    `batch_size`. An utterance for each process is in a batch in any case."""
    accumulate: int = 1
    """Batches whose gradients are added up before the optimizer takes a step."""
    sorta_grad: bool = True
    """First epoch in order of length (section 3.3 of the paper)."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of the network under automatic mixed precision; front end and loss stay in float32. tf32 rounds the factors of
    products, on GPUs alone."""
    initialization: Literal["orthogonal", "xavier", "pytorch"] = "orthogonal"
    """Of every weight, the recurrent ones included: see ds2_deploy/model/initialize.py."""
    dropout_from: float | None = None
    """Dropout grows from this share in the first epoch to `model.dropout` in the last; None: it is constant."""
    norm_frozen_from: float = 1.0
    """Share of the epochs after which batch normalisation learns with its running statistics, which then rest, instead
    of each batch's: where batches differ (in corpus, level or noise), the network must meet in training what it will
    be given in use."""
    checkpoint_minutes: float = 10.0
    """Minutes between saves of last.pt inside an epoch; it is saved after each epoch in any case."""
    seed: int = 1
    workers: int = 2
    """Processes that read and vary audio ahead of the network."""
    feature: FeatureConfig = FeatureConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    teacher: TeacherConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    selection: SelectionConfig = SelectionConfig()

    def __post_init__(self) -> None:
        check_ranges(
            self, "",
            epochs=at_least(1), batch_size=at_least(1), batch_seconds=POSITIVE, accumulate=at_least(1),
            dropout_from=DROPOUT, norm_frozen_from=SHARE, checkpoint_minutes=POSITIVE, seed=SEED,
            workers=between(0, MAX_WORKERS),
        )  # fmt: skip
        if self.augment.windows and not self.model.window:
            raise ValueError(
                "augment.windows is for a network whose backward direction goes by windows: set model.window and "
                "model.window_context, which it is to be used with"
            )
        if self.augment.windows and self.model.windows not in self.augment.windows:
            raise ValueError(
                f"augment.windows lacks {list(self.model.windows)}: what the network is to be used with, model.window "
                "and model.window_context, must be among them"
            )
        Alphabet.of(self.alphabet)  # raises where a character comes twice

    @property
    def selected_by(self) -> Literal["wer", "cer", "loss"]:
        """The validation result that epochs are compared by."""
        return self.selection.by or ("cer" if language_named(self.language).metric == "CER" else "wer")


def load_recipe(source: str, overrides: Sequence[str]) -> Recipe:
    """A recipe from a TOML file or by its bundled name, with `key.path=value` overrides in TOML's spelling."""
    path = Path(source) if Path(source).suffix == ".toml" else RECIPES / f"{source}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigError(f"There is no recipe {source}: give a .toml file or one of {names}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Cannot read the recipe {path}: {error}.") from error
    content.setdefault("name", path.stem)
    for override in overrides:
        _apply(content, override)
    try:
        recipe = msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The recipe {source} cannot be used: {_in_words(error)}.") from error
    language_named(recipe.language)
    return recipe


def to_toml(recipe: Recipe) -> str:
    """A file of all its settings; what is None stays at its default."""
    settings = msgspec.to_builtins(recipe)
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [WRITTEN, *_lines({name: value for name, value in settings.items() if name not in tables})]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_lines(table)]
    return "\n".join(lines) + "\n"


def _lines(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in settings.items() if value is not None]


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_lines(value)) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are spelled as in TOML


def differences(old: Mapping[str, Any], new: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old and new value of each setting of `new` that is another in `old`."""
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            yield from differences(before, value, f"{table}{name}.")
        elif before != value:
            yield f"{table}{name}", before, value


def _in_words(error: msgspec.ValidationError) -> str:
    """What msgspec found, which setting it is, and what would do there."""
    what, _, path = str(error).partition(" - at `$")
    where = path.strip("`").removeprefix(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", what):
        names = sorted(field.encode_name for field in _type_of(where).fields)
        nearest = get_close_matches(unknown[1], names, 1)
        offer = f"the nearest is {nearest[0]}" if nearest else f"there are {', '.join(names)}"
        return f"{where or 'it'} has no setting {unknown[1]}; {offer}"
    if missing := re.fullmatch(r"Object missing required field `(.+)`", what):
        return f"{where or 'it'} needs {missing[1]}"
    if wrong := re.fullmatch(r"Invalid enum value (.+)", what):
        return f"{where} is {wrong[1]}: choose {', '.join(map(str, _type_of(where).values))}"
    return f"{where}: {what.replace('`', '')}" if where else what


def _type_of(where: str) -> Any:
    """Of a setting such as `model.conv[0].kernel`, as msgspec.inspect has it."""
    found: Any = msgspec.inspect.type_info(Recipe)
    for name in re.findall(r"\w+(?!\w*\])", where):
        found = next(field.type for field in found.fields if field.encode_name == name)
        found = getattr(found, "item_type", found)  # of a list, whose elements are of one type
        several = getattr(found, "types", ())  # with None
        found = next((one for one in several if hasattr(one, "fields") or hasattr(one, "values")), found)
    return found


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override} has no '=': write --set model.rnn_size=256.")
    *tables, name = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: {table} is a value, not a table.")
    try:
        content[name] = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        if value.lstrip()[:1] in tuple("[{'\""):
            raise ConfigError(f"--set {override} is no TOML after the =: {error}.") from None
        content[name] = value  # a bare word is a string
