"""The error families.

Every leaf inherits one of our families and the builtin that a Python caller would catch anyway.
The library raises; the command line turns each into one line on stderr and an exit code.
"""


class DS2Error(Exception):
    """Base of all errors this project raises on purpose; the message is one complete sentence."""


class MissingPackageError(DS2Error, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class AudioError(DS2Error, ValueError):
    """A recording cannot be used: unreadable, empty, not finite, or the wrong channel."""


class SilentAudioError(AudioError):
    """It holds nothing but zeros."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """A path, folder or glob that leads to no recording."""


class ConfigError(DS2Error, ValueError):
    """A configuration file or option holds a value that cannot be used."""


class AlphabetError(DS2Error, ValueError):
    """Text and alphabet do not fit."""


class AlignmentError(DS2Error, ValueError):
    """A text does not belong to its recording."""


class PronunciationError(AlphabetError):
    """A text holds words whose phonemes nobody wrote down."""

    def __init__(self, message: str, words: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.words = words


class ManifestError(DS2Error, ValueError):
    """A manifest cannot be read, or names what is not there."""


class ModelError(DS2Error, ValueError):
    """A model folder or checkpoint cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model at this path or of this name."""


class OutputError(DS2Error, OSError):
    """A result cannot be written."""


class LanguageModelError(ModelError):
    """A language model cannot be used: unreadable, empty, or of another alphabet."""


class BackendUnavailableError(DS2Error, RuntimeError):
    """The asked runtime or device cannot be used on this machine."""


class InferenceError(DS2Error, RuntimeError):
    """A loaded model failed on its input, for want of memory most often."""


class BenchError(DS2Error, RuntimeError):
    """A measurement could not be made, or a report of one cannot be read."""


class StreamError(DS2Error, ValueError):
    """A stream was used in a way it cannot be: samples after its end, another rate half-way."""


class OverloadError(DS2Error, RuntimeError):
    """More streams, or more audio at once, than this machine was told to take."""


class EngineError(DS2Error, RuntimeError):
    """A TensorRT engine cannot be built, read or loaded."""


class TrainingError(DS2Error, RuntimeError):
    """Training cannot start or go on."""


class ParityError(DS2Error, ArithmeticError):
    """Two ways of computing the same thing differ by more than is allowed (exit code 3)."""


def reason_of(error: Exception) -> str:
    """Why a library failed, for a sentence of ours: the first line of its own, without a full stop, or its kind."""
    return first_line(str(error)) or type(error).__name__


def first_line(text: str) -> str:
    """Without a full stop; empty where there is none."""
    return "".join(text.splitlines()[:1]).rstrip(".")
