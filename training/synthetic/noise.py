"""Background noise made of nothing but a seed, and babble made of recordings.

White, pink and brown noise; bands of it; noise whose level moves as wind and traffic do; mains hum; knocks; and
several people talking at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from ds2_deploy.audio.load import load_audio
from ds2_deploy.files import atomic_folder

RATE = 16_000
SECONDS = 20
LEVEL = 0.05
"""Root mean square of a written file; who mixes it in chooses the ratio."""
FIRST = "white-00.flac"
"""Tells a folder of noise from others."""
Signal = npt.NDArray[np.float64]
Generator = np.random.Generator


def coloured(rng: Generator, samples: int, exponent: float) -> Signal:
    """Gaussian noise whose power falls with frequency to the power of `exponent`: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    result: Signal = np.fft.irfft(spectrum * np.maximum(frequency, 20.0) ** (-exponent / 2), samples)
    return result


def band(rng: Generator, samples: int) -> Signal:
    """White noise between two drawn frequencies."""
    low, high = np.sort(np.exp(rng.uniform(np.log(50), np.log(7500), 2)))
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    result: Signal = np.fft.irfft(spectrum * ((frequency >= low) & (frequency <= max(high, low + 200))), samples)
    return result


def moving(rng: Generator, samples: int) -> Signal:
    """Noise of a drawn colour that swells and falls over seconds."""
    points = rng.uniform(-15, 0, SECONDS)  # dB, one a second
    level = np.interp(np.linspace(0, SECONDS - 1, samples), np.arange(SECONDS), points)
    return coloured(rng, samples, rng.uniform(0.5, 2)) * 10 ** (level / 20)


def hum(rng: Generator, samples: int) -> Signal:
    """Harmonics of the mains over faint noise."""
    time, mains = np.arange(samples) / RATE, rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    overtones = np.arange(1, 20)
    amplitudes = rng.exponential(1.0, len(overtones)) / overtones ** rng.uniform(0.5, 1.5)
    phases = rng.uniform(0, 2 * np.pi, len(overtones))
    tone: Signal = sum(
        a * np.sin(2 * np.pi * mains * n * time + p) for a, n, p in zip(amplitudes, overtones, phases, strict=True)
    )
    hiss = coloured(rng, samples, 1.0)
    result: Signal = tone / tone.std() + rng.uniform(0.05, 0.5) * hiss / hiss.std()
    return result


def knocks(rng: Generator, samples: int) -> Signal:
    """Short resonant blows, as of keys and doors, over faint noise."""
    result = 0.02 * rng.standard_normal(samples)
    for start in rng.integers(0, samples, rng.integers(20, 120)):
        length = min(int(RATE * rng.uniform(0.01, 0.15)), samples - start)
        time = np.arange(length) / RATE
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * time) + rng.standard_normal(length)
        result[start : start + length] += rng.exponential(1.0) * tone * np.exp(-time * 6 * RATE / length)
    return result


NOISES: dict[str, Callable[[Generator, int], Signal]] = {
    "white": lambda rng, samples: coloured(rng, samples, 0.0),
    "pink": lambda rng, samples: coloured(rng, samples, 1.0),
    "brown": lambda rng, samples: coloured(rng, samples, 2.0),
    "band": band,
    "moving": moving,
    "hum": hum,
    "knocks": knocks,
}


def babble(rng: Generator, samples: int, recordings: Sequence[Path]) -> Signal:
    """Three to eight people at once, each saying one recording after another."""
    result = np.zeros(samples)
    for _ in range(rng.integers(3, 9)):
        voice = np.zeros(0)
        while len(voice) < samples:
            speech = load_audio(recordings[rng.integers(len(recordings))], RATE)
            voice = np.concatenate([voice, speech / (speech.std() + 1e-9)])
        result += voice[:samples] * rng.uniform(0.3, 1.0)
    return result


def write_noises(folder: Path, each: int, seed: int, speakers: Sequence[Path] = ()) -> None:
    """`folder`: `each` files of every kind, of 20 s, all or none; babble only where there are `speakers`."""
    makers = dict(NOISES)
    if speakers:
        makers["babble"] = lambda rng, samples: babble(rng, samples, speakers)
    with atomic_folder(folder, FIRST) as whole:
        for kind, (name, make) in enumerate(makers.items()):
            for number in range(each):
                noise = make(np.random.default_rng((seed, kind, number)), SECONDS * RATE)
                noise *= LEVEL / np.sqrt(np.mean(noise**2))
                soundfile.write(whole / f"{name}-{number:02}.flac", np.clip(noise, -1, 1), RATE)
