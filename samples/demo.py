"""`make demo`: the main job with the bundled weights, as a user would type it, and how long each step took.

Real recordings join in where the environment variable DS2_DATA names a folder with `an4/test.jsonl`.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo/model"
REAL_RECORDINGS = 8

times: list[tuple[str, float]] = []


def ds2(title: str, *arguments: object, capture: bool = False) -> str:
    """Run one command where the user would, show it and time it; the demo ends where it fails."""
    command = ["ds2", *map(_shown, arguments)]
    print(f"\n{_bold(title)}\n$ {shlex.join(command)}", flush=True)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ds2_deploy", *command[1:]],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE if capture else None,
    )
    times.append((title, time.perf_counter() - start))
    if done.returncode:
        sys.exit(f"demo: `{shlex.join(command)}` ended with exit code {done.returncode}.")
    return done.stdout or ""


def transcribe(title: str, manifest: Path, count: int | None = None) -> None:
    """Transcribe a manifest's recordings and print what was said beside what was heard."""
    utterances = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    step = len(utterances) // count if count else 1  # spread over the speakers
    chosen = utterances[::step][:count]
    paths = [manifest.parent / utterance["audio_filepath"] for utterance in chosen]
    output = ds2(title, "transcribe", "--model", MODEL, "--format", "jsonl", *paths, capture=True)
    heard = [json.loads(line)["text"] for line in output.splitlines()]
    width = max(len(utterance["text"]) for utterance in chosen)
    print(f"  {'said':{width}}  heard")
    for utterance, text in zip(chosen, heard, strict=True):
        print(f"{' ' if text == utterance['text'] else '*'} {utterance['text']:{width}}  {text}")


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _shown(argument: object) -> str:
    """Paths inside the repository as a user would type them."""
    path = Path(str(argument))
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else str(argument)


def main() -> None:
    ds2("What this machine can run", "doctor")
    ds2("Export the bundled weights", "export", ROOT / "ds2_deploy/models/default", "--out", MODEL, "--overwrite")
    ds2("Compare the exported graphs with PyTorch", "parity", MODEL)
    if _has_builder():
        ds2("Build an FP16 engine", "build-engine", MODEL, "--fp16", "--rebuild")
    else:
        print("\nNo engine: neither TensorRT nor TensorRT-RTX is installed here (ds2 doctor says how).")
    transcribe("Transcribe the samples, which are synthetic voices", ROOT / "samples/samples.jsonl")
    ds2("Caption one live: it is played at its own speed", "stream", ROOT / "samples/digits-kal16.flac")
    data = os.environ.get("DS2_DATA")
    if data and (Path(data) / "an4/test.jsonl").is_file():
        transcribe("Transcribe real recordings", Path(data).resolve() / "an4/test.jsonl", REAL_RECORDINGS)
        ds2("Measure the error rate on real speech", "evaluate", MODEL, Path(data).resolve() / "an4/test.jsonl")
    else:
        print("\nNo real recordings: DS2_DATA names no folder with an4/test.jsonl.")
    print(f"\n{_bold('Time taken')}")
    for title, seconds in times:
        print(f"{seconds:6.1f} s  {title}")


def _has_builder() -> bool:
    from ds2_deploy.errors import DS2Error
    from ds2_deploy.runtime.trt import choose

    try:
        choose("auto")
    except DS2Error:
        return False
    return True


if __name__ == "__main__":
    main()
