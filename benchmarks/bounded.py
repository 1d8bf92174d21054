"""A program that ends in time, with all that it started, whatever it is doing: for what may crash or hang on a GPU."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).parent.parent
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b.*: ")
"""After a traceback, the first line of what its exception says: after CUDA's come some that say nothing."""


class Spoken(NamedTuple):
    out: str
    errors: str
    failure: str | None
    """Why it did not end well, where it did not."""


def spoken(*arguments: str, limit_s: float, codes: tuple[int, ...] = (0,)) -> Spoken:
    """What Python with these arguments says until it ends; well is with one of these codes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        call = [sys.executable, *arguments]
        process = subprocess.Popen(call, cwd=ROOT, stdout=out, stderr=errors, start_new_session=True)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_all(process)
        said, complaint = _text(out), _text(errors)
    return Spoken(said, complaint, None if code in codes else _how(code, limit_s, complaint or said))


def _how(code: int | None, limit_s: float, said: str) -> str:
    if code is None:
        return f"it was stopped after {limit_s:.0f} s"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    *_, raised = said.rpartition("Traceback (most recent call last):")
    lines = raised.splitlines() or ["nothing was said"]
    told = lines[-1] if len(raised) == len(said) else next(filter(ERROR.match, lines), lines[-1])
    return f"{how}: {told}"


def _end_all(process: "subprocess.Popen[bytes]") -> None:
    """With what it started: a worker that went on would hold the GPU."""
    with suppress(OSError):  # all have ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with suppress(subprocess.TimeoutExpired):  # the driver may hold it for good: then it is left behind
        process.wait(10)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()
