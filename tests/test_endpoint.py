"""Endpoint rules as a truth table."""

import itertools
import math

import pytest

from ds2_deploy.errors import ConfigError
from ds2_deploy.streaming.endpoint import EndpointConfig, EndpointRule


@pytest.mark.parametrize(
    ("spoken", "silence_s", "utterance_s", "applies"),
    [
        # rule: after speech, 1 s of silence in an utterance of 3 s
        (False, 0.5, 2.0, False),
        (False, 0.5, 4.0, False),
        (False, 1.5, 2.0, False),
        (False, 1.5, 4.0, False),
        (True, 0.5, 2.0, False),
        (True, 0.5, 4.0, False),
        (True, 1.5, 2.0, False),
        (True, 1.5, 4.0, True),
        (True, 1.0, 3.0, True),  # the limits belong to it
        (True, 1.0, 2.98, False),
        (True, 0.98, 3.0, False),
    ],
)
def test_a_rule_holds_where_all_of_it_does(spoken: bool, silence_s: float, utterance_s: float, applies: bool) -> None:
    rule = EndpointRule(must_contain_nonsilence=True, min_trailing_silence=1.0, min_utterance_length=3.0)
    facts = {"trailing_silence_s": silence_s, "utterance_s": utterance_s}
    assert rule.applies(contains_nonsilence=spoken, **facts) is applies
    silent_too = EndpointRule(min_trailing_silence=1.0, min_utterance_length=3.0)
    assert silent_too.applies(contains_nonsilence=spoken, **facts) is (silence_s >= 1.0 and utterance_s >= 3.0)


def test_a_rule_without_conditions_always_holds() -> None:
    assert EndpointRule().applies(contains_nonsilence=False, trailing_silence_s=0.0, utterance_s=0.0)


def test_the_defaults_are_those_of_sherpa_onnx() -> None:
    config = EndpointConfig()
    for spoken, silence_s, utterance_s in itertools.product(
        [False, True], [0.0, 1.18, 1.2, 2.38, 2.4, 30.0], [0.0, 2.0, 19.98, 20.0, 60.0]
    ):
        expected = silence_s >= 2.4 or (spoken and silence_s >= 1.2) or utterance_s >= 20.0
        detected = config.detected(contains_nonsilence=spoken, trailing_silence_s=silence_s, utterance_s=utterance_s)
        assert detected is expected, (spoken, silence_s, utterance_s)


def test_any_rule_is_enough() -> None:
    never = EndpointRule(min_utterance_length=1e9)

    def detected(config: EndpointConfig) -> bool:
        return config.detected(contains_nonsilence=True, trailing_silence_s=1.0, utterance_s=5.0)

    holds = EndpointRule(min_trailing_silence=1.0)
    assert not detected(EndpointConfig(rule1=never, rule2=never, rule3=never))
    assert detected(EndpointConfig(rule1=holds, rule2=never, rule3=never))
    assert detected(EndpointConfig(rule1=never, rule2=holds, rule3=never))
    assert detected(EndpointConfig(rule1=never, rule2=never, rule3=holds))


@pytest.mark.parametrize("field", ["min_trailing_silence", "min_utterance_length"])
@pytest.mark.parametrize("value", [-0.1, -math.inf, math.inf, math.nan])
def test_values_that_cannot_be(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        EndpointRule(**{field: value})  # type: ignore[arg-type]
