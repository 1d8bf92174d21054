"""What became of an utterance that was decoded: a decoder that fails on one must not end the others."""

import logging

import numpy as np
import numpy.typing as npt

from ds2_deploy.decoding.protocol import Decoder, Hypothesis
from ds2_deploy.errors import DS2Error, InferenceError

log = logging.getLogger(__name__)

Outcome = Hypothesis | DS2Error


def decode_row(decoder: Decoder, log_probs: npt.NDArray[np.float32]) -> Outcome:
    """The hypothesis of one utterance (T, V), or why there is none."""
    try:
        return decoder.decode(log_probs)
    except DS2Error as error:
        return error
    except Exception as error:  # a library's, whatever it is: the other recordings go on
        log.debug("A decoder failed", exc_info=True)
        return InferenceError(f"the decoder failed: {type(error).__name__}: {error}")


def text_or_nothing(decoder: Decoder, log_probs: npt.NDArray[np.float32]) -> str:
    """For those who measure: an utterance (T, V) without probabilities is one of which nothing was understood."""
    outcome = decode_row(decoder, log_probs)
    return "" if isinstance(outcome, DS2Error) else outcome.text
