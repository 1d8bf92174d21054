"""One file per recording below an output folder."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ds2_deploy.audio.find import Recording
from ds2_deploy.errors import OutputError
from ds2_deploy.files import atomic_path, is_file
from ds2_deploy.output.writers import TextWriter, Transcript


class FolderWriter:
    """Writes each transcript to the file that `files` has for its path: whole or not at all."""

    def __init__(self, files: dict[str, Path], writer: type[TextWriter]) -> None:
        self.files = files
        self.writer = writer

    def write(self, transcript: Transcript) -> None:
        with (
            atomic_path(self.files[transcript.path]) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape") as stream,
            closing(self.writer(stream, single=True)) as writer,
        ):
            writer.write(transcript)

    def close(self) -> None:
        """Nothing is left to write."""


def output_files(recordings: Iterable[Recording], folder: Path, suffix: str) -> dict[str, Path]:
    """The file of each recording, by the recording's name; OutputError where two would share one, or a recording comes
    twice: by itself and in its folder, it would have two files."""
    owners: dict[Path, Recording] = {}
    files: dict[str, Path] = {}
    for recording in recordings:
        file = folder / recording.relative.with_suffix(suffix)
        if recording.name in files:
            raise OutputError(f"{recording.name} is named twice: name each recording once.")
        if file in owners:
            other = owners[file]
            raise OutputError(
                f"{other.name} and {recording.name} would both be written to {file}: "
                + (
                    "transcribe them into different folders."
                    if other.relative.name != recording.relative.name  # talk.wav and talk.mp3
                    else "name the folder above them instead, or transcribe them into different folders."
                )
            )
        owners[file], files[recording.name] = recording, file
    return files


def check_transcripts(recordings: Iterable[Recording], files: dict[str, Path]) -> None:
    """OutputError where a recording's text is there beside the recording: so corpora have what was said, which nobody
    could write again."""
    for recording in recordings:
        file = files[recording.name]
        if file.suffix != ".txt" or not isinstance(recording.source, str) or not is_file(file):
            continue
        if file.parent.resolve() == Path(recording.source).parent.resolve():
            raise OutputError(
                f"{file} is there, beside its recording, and may be the transcript that somebody made: choose another "
                "--output-dir, or add --skip-existing."
            )
