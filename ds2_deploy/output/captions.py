"""Live captions: a stream's results as they grow, each writer for one kind of reader."""

import json
import shutil
from typing import TextIO

from rich.cells import cell_len

from ds2_deploy.output.progress import ERASE_LINE
from ds2_deploy.output.writers import rounded
from ds2_deploy.streaming.stream import StreamResult

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class LineCaptions:
    """A line for each complete utterance, and nothing before: what a pipe or a file wants."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def partial(self, result: StreamResult) -> None:
        """The utterance in progress has grown: not written here."""

    def final(self, result: StreamResult) -> None:
        """An utterance is complete."""
        self.out.write(f"{result.text}\n")
        self.out.flush()


class TerminalCaptions(LineCaptions):
    """The utterance in progress in the terminal's last line, its unfinished word dimmed; complete ones stay above."""

    def partial(self, result: StreamResult) -> None:
        shown, width = result.text, shutil.get_terminal_size().columns - 1
        while (excess := cell_len(shown) - width) > 0:  # its end, where it outgrows the line
            shown = shown[(excess + 1) // 2 :]  # a character has at most two cells
        growing = len(result.text) - len(result.stable)
        cut = max(len(shown) - growing, 0)
        self.out.write(f"{ERASE_LINE}{shown[:cut]}{DIM}{shown[cut:]}{PLAIN}")
        self.out.flush()

    def final(self, result: StreamResult) -> None:
        self.out.write(ERASE_LINE)
        super().final(result)


class JsonCaptions(LineCaptions):
    """A JSON object for each change, for programs."""

    def partial(self, result: StreamResult) -> None:
        self.final(result)

    def final(self, result: StreamResult) -> None:
        fields = rounded(result) | {"words": [rounded(word) for word in result.words]}
        self.out.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self.out.flush()


CAPTIONS: dict[str, type[LineCaptions]] = {"text": LineCaptions, "jsonl": JsonCaptions}


def caption_writer(format_name: str, out: TextIO) -> LineCaptions:
    """The writer of a format, one of CAPTIONS; a terminal sees text grow."""
    return TerminalCaptions(out) if format_name == "text" and out.isatty() else CAPTIONS[format_name](out)
