"""From log-probabilities to text: one protocol, several decoders. A new one is a class and a line in DECODERS."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ds2_deploy.decoding.beam import BeamDecoder
from ds2_deploy.decoding.flashlight import FlashlightDecoder
from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.decoding.search import BeamConfig
from ds2_deploy.errors import ConfigError
from ds2_deploy.model_folder import LM_FOLDER
from ds2_deploy.text.alphabet import Alphabet

DECODERS: dict[str, Callable[[Alphabet, BeamConfig], Decoder]] = {
    "greedy": lambda alphabet, _: GreedyDecoder(alphabet),
    "beam": BeamDecoder,
    "flashlight": FlashlightDecoder,
}


def check_decoder(name: str) -> str:
    """The name; ConfigError where there is no decoder of that name."""
    if name not in DECODERS:
        raise ConfigError(f"There is no decoder {name!r}: choose {', '.join(DECODERS)}.")
    return name


def make_decoder(decoder: str | BeamConfig, alphabet: Alphabet, model: Path | None = None) -> Decoder:
    """One of DECODERS, by its name or as configured.

    A search that was told of no language model, nor of NO_LM, takes that of the folder `model`, if there is one.
    """
    config = decoder if isinstance(decoder, BeamConfig) else BeamConfig(search=decoder)
    if config.lm is None and model is not None and (model / LM_FOLDER).is_dir():
        config = replace(config, lm=model / LM_FOLDER)
    return DECODERS[check_decoder(config.search)](alphabet, config)
