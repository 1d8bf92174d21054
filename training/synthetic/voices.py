"""Debian's speech synthesizers as speakers: espeak-ng, flite and festival, each in many voices.

`sudo apt install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts`
"""

import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ds2_deploy.errors import ConfigError

INSTALL = "sudo apt install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
ESPEAK_ACCENTS = ("en-us", "en-us", "en-us", "en-us", "en-us-nyc", "en-gb", "en-gb-scotland", "en-029")
ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 Annie Alex Andrea Andy Denis Lee Mario Michael "
    "linda steph john max paul rob travis grandpa grandma"
).split()
FLITE_VOICES = {"rms": 100, "slt": 180, "awb": 130, "kal16": 100}
"""And the mean pitch of each, in Hz."""
FESTIVAL_VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
ESPEAK_SAYS = {"zee": "[[z'i:]]", "eff": "[['Ef]]", "ay": "[['eI]]", "rubout": "rub out"}
"""What it would say as "zed" in British voices, spell, say as "eye", and say as "roobout"."""
FESTIVAL_SAYS = {"aitch": "aych"}
"""Which it would say without its vowel."""
SHARES = {"espeak": 0.4, "flite": 0.35, "festival": 0.25}


class Task(NamedTuple):
    """One recording to make."""

    text: str
    """As a synthesizer is to read it."""
    path: Path
    """The WAV file to write, of the synthesizer's own sample rate."""
    seed: int


def check_installed() -> None:
    missing = [program for program in ("espeak-ng", "flite", "festival") if not shutil.which(program)]
    if missing:
        raise ConfigError(f"Synthetic voices need {' and '.join(missing)}, which are not installed: {INSTALL}")


def speak(engine: str, tasks: Sequence[Task]) -> None:
    """Make the recordings; ConfigError with what the synthesizer says where it fails."""
    if engine == "festival":
        _run(["festival", "-b", "(begin " + " ".join(_festival(task) for task in tasks) + ")"], tasks[0])
        return
    command = {"espeak": _espeak, "flite": _flite}[engine]
    for task in tasks:
        _run(command(task), task)


def _run(command: list[str], task: Task) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not task.path.exists():
        said = (done.stderr.strip().splitlines() or ["it wrote no file"])[-1]
        raise ConfigError(f"{command[0]} cannot say {task.text!r}: {said}. Are all voices there? {INSTALL}")


def _espeak(task: Task) -> list[str]:
    draw = random.Random(task.seed)
    voice = f"{draw.choice(ESPEAK_ACCENTS)}+{draw.choice(ESPEAK_VARIANTS)}"
    pitch, words_a_minute = draw.randint(25, 75), draw.randint(110, 190)
    text = _paused(_respelled(task.text, ESPEAK_SAYS), draw)
    return ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(words_a_minute), "-w", str(task.path), text]


def _flite(task: Task) -> list[str]:
    draw = random.Random(task.seed)
    voice = draw.choice(list(FLITE_VOICES))
    settings = {
        "duration_stretch": draw.uniform(0.8, 1.3),
        "int_f0_target_mean": FLITE_VOICES[voice] * draw.uniform(0.85, 1.2),
        "int_f0_target_stddev": draw.uniform(8, 25),
    }
    options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value:.2f}")]
    return ["flite", "-voice", voice, *options, "-t", _paused(task.text, draw), "-o", str(task.path)]


def _festival(task: Task) -> str:
    """Scheme that writes one recording."""
    draw = random.Random(task.seed)
    stretch = draw.uniform(0.85, 1.25)
    text = _paused(_respelled(task.text, FESTIVAL_SAYS), draw).replace('"', "")
    return (
        f"(voice_{draw.choice(FESTIVAL_VOICES)}) (Parameter.set 'Duration_Stretch {stretch:.2f}) "
        f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{task.path}" \'riff)'
    )


def _respelled(text: str, says: dict[str, str]) -> str:
    return " ".join(says.get(word, word) for word in text.split())


def _paused(text: str, draw: random.Random) -> str:
    """With commas here and there: people who spell make pauses."""
    share = draw.choice([0.0, 0.0, 0.1, 0.4, 1.0])
    words: list[str] = re.findall(r"double you|rub out|\S+", text)  # no pause within a name
    return " ".join(word + "," * (draw.random() < share) for word in words[:-1]) + " " + words[-1]
