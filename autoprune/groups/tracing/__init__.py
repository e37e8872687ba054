"""Model -> units: the index-exact tracer on torch.export's ATen graph."""

from autoprune.groups.tracing.export import ExportError, export_program
from autoprune.groups.tracing.tracer import Trace, trace_model
from autoprune.groups.tracing.units import Partition, partition

__all__ = ["ExportError", "Partition", "Trace", "export_program", "partition", "trace_model"]
