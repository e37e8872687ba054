"""Model -> units: the index-exact tracer on torch.export's ATen graph."""

from autoprune.groups.tracing.export import EXPORT_FAILED, ExportError, export_program
from autoprune.groups.tracing.tracer import Trace, trace_model
from autoprune.groups.tracing.units import Partition, partition

__all__ = ["EXPORT_FAILED", "ExportError", "Partition", "Trace", "export_program", "partition", "trace_model"]
