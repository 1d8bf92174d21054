"""Make the sample recordings and their manifest anew, by text-to-speech.

Needs the Debian packages `flite` (2.2) and `espeak-ng` (1.51): other versions sound a little different.

    .venv/bin/python samples/make_samples.py                    # the recordings beside this script
    .venv/bin/python samples/make_samples.py --all --out DIR    # every voice reading every text, to choose from
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

RATE = 16000

# The style of CMU AN4, which the bundled model was trained on: spelled words, numbers, dates, commands.
TEXTS = {
    "enter": "enter four eight one nine",
    "spell": "p i t t s b u r g h",
    "date": "march twentieth nineteen seventy",
    "rubout": "rubout g m e f three nine",
    "number": "four one two two six eight three five",
    "name": "m a r i n o",
    "repeat": "repeat",
    "code": "six two nine eight",
    "digits": "nine five three zero seven",
}

# Spelled letters in AN4 take 0.3 to 0.6 s each: slower than the voices' default.
VOICES = {
    "slt": ["flite", "-voice", "slt", "--setf", "duration_stretch=1.15"],
    "rms": ["flite", "-voice", "rms", "--setf", "duration_stretch=1.05"],
    "awb": ["flite", "-voice", "awb", "--setf", "duration_stretch=1.15"],
    "kal16": ["flite", "-voice", "kal16", "--setf", "duration_stretch=1.15"],
    "us": ["espeak-ng", "-v", "en-us", "-s", "175"],
    "us-f2": ["espeak-ng", "-v", "en-us+f2", "-s", "175"],
    "us-m3": ["espeak-ng", "-v", "en-us+m3", "-s", "175"],
    "us-annie": ["espeak-ng", "-v", "en-us+Annie", "-s", "175"],
}


class Sample(NamedTuple):
    text: str
    voice: str
    suffix: str = ".flac"
    rate: int = RATE
    channels: int = 1
    subtype: str | None = None


SAMPLES = [
    Sample("enter", "slt"),
    Sample("number", "awb"),
    Sample("digits", "kal16"),
    Sample("code", "rms"),
    Sample("spell", "rms"),
    Sample("date", "rms"),
    Sample("number", "rms", suffix=".wav", rate=8000, subtype="ULAW"),  # as a telephone sends it
    Sample("digits", "slt", suffix=".mp3", rate=44100, channels=2),
]


def spoken(text: str) -> str:
    """What to tell a voice so that it says `text`: letters by their names, slightly apart."""
    words = (f"{word.upper()}," if len(word) == 1 else word for word in text.split())
    return " ".join(words).removesuffix(",").replace("rubout", "rub out")


def synthesize(text: str, voice: str) -> npt.NDArray[np.float32]:
    """(S,) at RATE, as loud and as quiet between the words as the recordings of AN4."""
    command = VOICES[voice]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        arguments = ["-t", spoken(text), "-o", str(path)] if command[0] == "flite" else ["-w", str(path), spoken(text)]
        subprocess.run([*command, *arguments], check=True)
        speech, rate = sf.read(path, dtype="float32")
    speech = soxr.resample(speech, rate, RATE)
    speech = np.pad(speech * (0.3 / np.abs(speech).max()), RATE // 5)  # 0.2 s before and after
    # Digital silence is unlike any room: white noise of -66 dB, the median of AN4's pauses.
    return speech + np.random.default_rng(0).normal(scale=10 ** (-66 / 20), size=len(speech)).astype(np.float32)


def write(sample: Sample, folder: Path) -> dict[str, str | float]:
    """One recording; returns its line of the manifest."""
    path = folder / f"{sample.text}-{sample.voice}{sample.suffix}"
    speech = soxr.resample(synthesize(TEXTS[sample.text], sample.voice), RATE, sample.rate)
    loudness = 1 / np.arange(1, sample.channels + 1)  # the second channel at half the amplitude: off-centre
    sf.write(path, speech[:, None] * loudness, sample.rate, subtype=sample.subtype)  # (S, channels)
    return {
        "audio_filepath": path.name,
        "duration": round(sf.info(path).duration, 3),
        "text": TEXTS[sample.text],
        "speaker": f"{VOICES[sample.voice][0]}-{sample.voice}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the recordings")
    parser.add_argument("--all", action="store_true", help="every voice reading every text, as 16 kHz FLAC")
    arguments = parser.parse_args()
    samples = [Sample(text, voice) for text in TEXTS for voice in VOICES] if arguments.all else SAMPLES
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(write(sample, arguments.out)) for sample in samples]
    (arguments.out / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
