"""Model -> a forward pass in which torch's counter sees every convolution and matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def countable(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and keep fused kernels away, which are invisible to torch's counter.

    Attention is forced to its plain form, recurrent layers to matrix products, and gradients stay enabled because torch
    takes the fused path of its own transformer layers only without them.
    """
    model.eval()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
