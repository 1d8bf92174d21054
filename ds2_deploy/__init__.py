"""ds2_deploy: DeepSpeech2 from data to a measured, deployed engine.

This package is what a user of a trained model needs; it imports without torch, onnxruntime or tensorrt. The names in
`__all__` are loaded when they are asked for: the command line does without most of them.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds2_deploy.decoding.search import BeamConfig
    from ds2_deploy.recognizer import Recognizer
    from ds2_deploy.streaming.dispatcher import Dispatcher
    from ds2_deploy.streaming.endpoint import EndpointConfig

__all__ = ["BeamConfig", "Dispatcher", "EndpointConfig", "Recognizer"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is loaded, which sends events without it

__version__ = "0.1.0"

_MODULES = {
    "BeamConfig": "ds2_deploy.decoding.search",
    "Dispatcher": "ds2_deploy.streaming.dispatcher",
    "EndpointConfig": "ds2_deploy.streaming.endpoint",
    "Recognizer": "ds2_deploy.recognizer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
