"""ds2_deploy: DeepSpeech2 from data to a measured, deployed engine.

This package is what a user of a trained model needs; it imports without torch, onnxruntime or tensorrt.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is loaded, which sends events without it

__version__ = "0.1.0"
