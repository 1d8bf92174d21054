"""From log-probabilities to text: one protocol, several decoders. A new one is a class and a line in DECODERS."""

from collections.abc import Callable

from ds2_deploy.decoding.greedy import GreedyDecoder
from ds2_deploy.decoding.protocol import Decoder
from ds2_deploy.errors import ConfigError
from ds2_deploy.text.alphabet import Alphabet

DECODERS: dict[str, Callable[[Alphabet], Decoder]] = {"greedy": GreedyDecoder}


def decoder_class(name: str) -> Callable[[Alphabet], Decoder]:
    """The decoder of this name; ConfigError where there is none."""
    if name == "beam":
        raise ConfigError("The decoder beam comes with a later release: this one has greedy.")
    if name not in DECODERS:
        raise ConfigError(f"There is no decoder {name!r}: choose {' or '.join(DECODERS)}.")
    return DECODERS[name]
