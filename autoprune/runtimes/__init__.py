"""Pruned model -> deployed form: targets, sessions, ONNX export and the template that makes it cheap."""

from autoprune.runtimes.deploy import open_session
from autoprune.runtimes.devices import CPU, device_name, on_device, require_cuda
from autoprune.runtimes.onnx_runtime import OnnxSession, emit_onnx, open_onnx
from autoprune.runtimes.session import PARITY_TOLERANCE, Session, parity
from autoprune.runtimes.targets import RUNTIMES, Runtime, Target, available, parse_target
from autoprune.runtimes.template import OnnxTemplate
from autoprune.runtimes.torch_eager import TorchSession

__all__ = [
    "CPU",
    "PARITY_TOLERANCE",
    "RUNTIMES",
    "OnnxSession",
    "OnnxTemplate",
    "Runtime",
    "Session",
    "Target",
    "TorchSession",
    "available",
    "device_name",
    "emit_onnx",
    "on_device",
    "open_onnx",
    "open_session",
    "parity",
    "parse_target",
    "require_cuda",
]
