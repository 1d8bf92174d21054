"""Does memory stay flat however long a recording is?

    python benchmarks/long/memory.py [MANIFEST|FOLDER] [--stream-hours 10] [--hours 1 --hours 3] [--save]

Writes recordings of hours (the given ones, one after the other, again and again), transcribes each by the command
line as a user would, and looks at the process's resident memory twice a second:

stream       `ds2 transcribe --stream`: chunk by chunk through the streaming model
segments     `ds2 transcribe`: cut at silences, through the bidirectional model in batches
dispatcher   10,000 streams opened, fed half a second and closed, forgotten or finished in turn, in one process

Resident memory counts a memory-mapped recording's pages in neither, since libsndfile reads.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import soundfile
import typer

sys.path.insert(0, str(Path(__file__).parent.parent))
from machine import default_source, machine, recordings, save_result

from ds2_deploy.audio.load import Samples, load_audio
from ds2_deploy.streaming.dispatcher import Dispatcher

RATE = 16000


def main(
    source: Annotated[Path | None, typer.Argument()] = None,
    stream_hours: Annotated[list[float] | None, typer.Option()] = None,
    hours: Annotated[list[float] | None, typer.Option(help="Of the bidirectional model's recordings.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/memory.json.")] = False,
) -> None:
    """Resident memory of transcriptions that take hours of audio."""
    paths = recordings(source or default_source())
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for way, lengths in (("stream", stream_hours or [10.0]), ("segments", hours or [0.25, 1.0, 3.0])):
            for length in lengths:
                path = Path(work) / "long.wav"
                write_long(paths, length * 3600, path)
                rows.append(watch(way, path, length))
                print_row(rows[-1])
    streams = come_and_go(load_audio(paths[0], RATE)[: RATE // 2])
    print("dispatcher  " + ", ".join(f"{key} {value}" for key, value in streams.items()))
    if save:
        save_result("memory", {"rows": rows, "streams": streams, "machine": machine()})


def write_long(paths: list[Path], seconds: float, path: Path) -> None:
    """`seconds` of 16-bit WAV."""
    missing = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for samples in itertools.cycle([load_audio(p, RATE) for p in paths]):
            file.write(samples[:missing])
            missing -= len(samples)
            if missing <= 0:
                return


def watch(way: str, path: Path, hours: float) -> dict[str, Any]:
    """Run the command and sample its resident memory."""
    options = ["--stream"] if way == "stream" else []
    start = time.perf_counter()
    command = [sys.executable, "-m", "ds2_deploy", "transcribe", str(path), *options, "--format", "json"]
    megabytes: list[tuple[float, float]] = []
    with path.with_suffix(".json").open("w+") as out:  # not a pipe: nobody would empty it meanwhile
        process = subprocess.Popen(command, stdout=out)
        while process.poll() is None:
            megabytes.append((time.perf_counter() - start, resident_mb(process.pid)))
            time.sleep(0.5)
        seconds, characters = time.perf_counter() - start, out.seek(0, 2)
    settled = [mb for at, mb in megabytes if at > min(60.0, seconds / 4) and mb > 0]
    return {
        "way": way,
        "hours": hours,
        "exit_code": process.returncode,
        "rtfx": round(hours * 3600 / seconds, 1),
        "settled_after_s": round(min(60.0, seconds / 4), 1),
        "first_mb": round(settled[0], 1),
        "median_mb": round(statistics.median(settled), 1),
        "max_mb": round(max(mb for _, mb in megabytes), 1),
        "growth": round(max(settled) / settled[0] - 1, 4),
        "characters": characters,
    }


def come_and_go(samples: Samples, count: int = 10_000) -> dict[str, Any]:
    """Resident memory of this process after a tenth of the streams, and after all."""
    early = 0.0
    with Dispatcher.open("streaming", max_streams=50) as dispatcher:
        for number in range(count):
            stream = dispatcher.create_stream()
            stream.accept_waveform(samples, RATE)
            if number % 3 == 0:
                stream.close()
            elif number % 3 == 1:
                stream.input_finished()
                stream.wait()
            del stream  # the others are just forgotten
            if number == count // 10:
                early = resident_mb(os.getpid())
    late = resident_mb(os.getpid())
    return {
        "streams": count,
        "early_mb": round(early, 1),
        "late_mb": round(late, 1),
        "growth": round(late / early - 1, 4),
    }


def resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0.0
    return pages * 4096 / 1e6


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['way']:9} {row['hours']:5g} h  {row['rtfx']:6.1f} x real time  resident: {row['first_mb']:.0f} MB after "
        f"{row['settled_after_s']:.0f} s, at most {row['max_mb']:.0f} MB, growth {row['growth']:.1%}",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
