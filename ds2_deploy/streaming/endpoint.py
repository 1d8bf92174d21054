"""When an utterance is over: the three rules of sherpa-onnx's online recognisers, under their names.

Kaldi's are five, which also ask how probable the end of the utterance is.
"""

import math

import msgspec

from ds2_deploy.errors import ConfigError


class EndpointRule(msgspec.Struct, frozen=True, kw_only=True):
    """An utterance is over where all of these hold."""

    must_contain_nonsilence: bool = False
    """Something has been decoded."""
    min_trailing_silence: float = 0.0
    """Seconds since the last letter, or since the utterance began."""
    min_utterance_length: float = 0.0
    """Seconds since the utterance began."""

    def __post_init__(self) -> None:
        for name in ("min_trailing_silence", "min_utterance_length"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be a number of seconds from 0.")

    def applies(self, *, contains_nonsilence: bool, trailing_silence_s: float, utterance_s: float) -> bool:
        return (
            (contains_nonsilence or not self.must_contain_nonsilence)
            and trailing_silence_s >= self.min_trailing_silence
            and utterance_s >= self.min_utterance_length
        )


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An utterance is over where any rule applies; sherpa-onnx's defaults."""

    rule1: EndpointRule = EndpointRule(min_trailing_silence=2.4)
    """Silence, whether or not anything was said."""
    rule2: EndpointRule = EndpointRule(must_contain_nonsilence=True, min_trailing_silence=1.2)
    """Less silence, after something was said."""
    rule3: EndpointRule = EndpointRule(min_utterance_length=20.0)
    """An utterance that does not end."""

    def detected(self, *, contains_nonsilence: bool, trailing_silence_s: float, utterance_s: float) -> bool:
        return any(
            rule.applies(
                contains_nonsilence=contains_nonsilence,
                trailing_silence_s=trailing_silence_s,
                utterance_s=utterance_s,
            )
            for rule in (self.rule1, self.rule2, self.rule3)
        )
