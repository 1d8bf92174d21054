"""From log-probabilities to text: one protocol, several decoders. A new one is a class and a line in DECODERS."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ds2_deploy.decoding.beam import BeamConfig, BeamDecoder
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.errors import ConfigError
from ds2_deploy.text.alphabet import Alphabet

LM_FOLDER = "lm"
"""In a model folder: the language model that goes with it."""


def _beam(alphabet: Alphabet, model: Path | None) -> Decoder:
    return _searching(alphabet, BeamConfig(), model)


DECODERS: dict[str, Callable[[Alphabet, Path | None], Decoder]] = {
    "greedy": lambda alphabet, _: GreedyDecoder(alphabet),
    "beam": _beam,
}


def check_decoder(name: str) -> str:
    """The name; ConfigError where there is no decoder of that name."""
    if name not in DECODERS:
        raise ConfigError(f"There is no decoder {name!r}: choose {' or '.join(DECODERS)}.")
    return name


def make_decoder(decoder: str | BeamConfig, alphabet: Alphabet, model: Path | None = None) -> Decoder:
    """One of DECODERS, or a beam search as configured.

    A beam search without a language model of its own takes that of the folder `model`, if there is one.
    """
    if isinstance(decoder, BeamConfig):
        return _searching(alphabet, decoder, model)
    return DECODERS[check_decoder(decoder)](alphabet, model)


def _searching(alphabet: Alphabet, config: BeamConfig, model: Path | None) -> BeamDecoder:
    if config.lm is None and model is not None and (model / LM_FOLDER).is_dir():
        config = replace(config, lm=model / LM_FOLDER)
    return BeamDecoder(alphabet, config)
