"""The table of formats. A new one is a reader, a recogniser and a line here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ds2_deploy.errors import ConfigError, ManifestError
from ds2_deploy.files import is_pipe
from training.corpora import lhotse, plain, published
from training.corpora.entry import Items


class Format(NamedTuple):
    layout: str
    """What is looked for, as a message says it."""
    matches: Callable[[Path], bool]
    read: Callable[..., Items]
    """Called with the source, and with the split where the format has splits."""
    has_splits: bool = True


# In the order in which they are tried: what a single file decides before what takes a walk through all folders.
FORMATS = {
    "manifest": Format("a manifest (.jsonl)", plain.is_manifest, plain.read_manifest_again, has_splits=False),
    "lhotse": Format("a cut set (.jsonl or .jsonl.gz)", lhotse.is_lhotse, lhotse.read_lhotse, has_splits=False),
    "an4": Format("etc/an4_*.transcription", published.is_an4, published.read_an4),
    "aishell": Format("transcript/aishell_transcript*.txt", published.is_aishell, published.read_aishell),
    "common-voice": Format(
        "a .tsv with the columns path, sentence and client_id", published.is_common_voice, published.read_common_voice
    ),
    "librispeech": Format("*.trans.txt", published.is_librispeech, published.read_librispeech),
    "folder": Format("recordings, or a table of them", plain.is_folder, plain.read_folder, has_splits=False),
}


def recognised(source: Path) -> str:
    """The name of the first format that `source` looks like."""
    if is_pipe(source):
        raise ManifestError(f"{source} is a pipe, which has no layout: say --format manifest, or lhotse for a cut set.")
    for name, known in FORMATS.items():
        if known.matches(source):
            return name
    sought = ", ".join(f"{known.layout} ({name})" for name, known in FORMATS.items())
    raise ManifestError(f"{source} is no corpus of a known layout; looked for: {sought}.")


def read(source: Path, format_name: str, split: str | None) -> Items:
    """What the corpus says, in its own order; the split must be one it has."""
    chosen = FORMATS[format_name]
    if chosen.has_splits and not chosen.matches(source):
        raise ManifestError(f"{source} is no corpus of the format {format_name}: it holds no {chosen.layout}.")
    if chosen.has_splits:
        return chosen.read(source, split)
    if split:
        raise ConfigError(f"--split {split} does not go with a source of the format {format_name}: it has no splits.")
    return chosen.read(source)
