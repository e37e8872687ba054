"""Model -> equal model that can be traced: computed weights become plain, fused attention plain projections."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import ArtifactError
from autoprune.groups.baking import bake, tied_tensors


class SeparateAttention(nn.Module):
    """Multi-head attention with one Linear a projection; computes what the `nn.MultiheadAttention` did.

    The number of heads follows the width of the projections, so heads can be cut.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim = fused.head_dim
        self.dropout = fused.dropout
        self.batch_first = fused.batch_first
        # nn.TransformerEncoderLayer reads these to decide against its fused path, which would bypass this module.
        self.num_heads = fused.num_heads
        self.in_proj_bias = None
        self._qkv_same_embed_dim = False
        weights = (
            fused.in_proj_weight.chunk(3)
            if fused.in_proj_weight is not None
            else (fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight)
        )
        biases = (None, None, None) if fused.in_proj_bias is None else fused.in_proj_bias.chunk(3)
        trained = fused.in_proj_weight if fused.in_proj_weight is not None else fused.q_proj_weight
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias, requires_grad=trained.requires_grad)
            for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = _linear(
            fused.out_proj.weight, fused.out_proj.bias, requires_grad=fused.out_proj.weight.requires_grad
        )
        self.train(fused.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; the arguments mean what they mean in `nn.MultiheadAttention`."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, which must be given too.")
        batched = query.dim() == 3
        batch = 0 if self.batch_first else 1
        if not batched:
            query, key, value = (x.unsqueeze(batch) for x in (query, key, value))
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        mask = _merged_mask(attn_mask, key_padding_mask, len(q), q.dtype)
        attended, weights = self._attend((q, k, v), mask, need_weights=need_weights)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not self.batch_first:
            output = output.transpose(0, 1)
        if batched:
            return output, weights
        return output.squeeze(batch), None if weights is None else weights.squeeze(0)

    def _heads(self, x: Tensor) -> Tensor:
        """Return [batch, heads, positions, head_dim]."""
        return torch.unflatten(x, -1, (-1, self.head_dim)).transpose(1, 2)

    def _attend(
        self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = qkv
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = (q @ k.transpose(-2, -1)) * self.head_dim**-0.5
        weights = F.dropout((scores if mask is None else scores + mask).softmax(dim=-1), dropout)
        return weights @ v, weights


def prepare_model(model: nn.Module, paths: Collection[str] | None = None) -> tuple[nn.Module, tuple[str, ...]]:
    """Bake computed weights (`bake`), then replace every `nn.MultiheadAttention` by an equal module of projections.

    Both in place. Attentions with configurations that plain projections cannot represent (`bias_k`, `add_zero_attn`),
    subclasses and those with hooks stay as they are, and so do weights computed from one that another module holds.

    Args:
        model: In any mode; what it computes in eval mode stays the same.
        paths: Prepare exactly these modules, as a plan names them; None prepares all that can be.

    Returns:
        The model (a new one only where the model itself is such an attention) and the prepared paths.

    Raises:
        ArtifactError: One of `paths` is not in the model, or has nothing to prepare.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in paths or ():
        if path not in modules:
            _refuse(path, "has no such module")
    chosen = modules if paths is None else {path: module for path, module in modules.items() if path in paths}
    tied = tied_tensors(model)
    baked = {id(module) for module in dict.fromkeys(chosen.values()) if bake(module, tied)}
    made: dict[int, SeparateAttention] = {}
    prepared = []
    for path, module in chosen.items():
        if _is_plain(module):
            new = made.setdefault(id(module), SeparateAttention(module))
            if not path:
                return new, ("",)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new)
        if id(module) in made or id(module) in baked:
            prepared.append(path)
        elif paths is not None:
            _refuse(path, f"has {type(module).__name__} there, with nothing to prepare")
    return model, tuple(prepared)


def _refuse(path: str, problem: str) -> NoReturn:
    raise ArtifactError(
        f"The plan was made for a model in which {path!r} was prepared; the model {problem}.",
        hint="Pass the model definition that was pruned, parametrisations included.",
    )


def _is_plain(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    if type(module) is not nn.MultiheadAttention:
        return False
    hooked = vars(module)["_forward_hooks"] or vars(module)["_forward_pre_hooks"]
    return module.bias_k is None and module.bias_v is None and not module.add_zero_attn and not hooked


def _merged_mask(attention: Tensor | None, padding: Tensor | None, batch: int, dtype: torch.dtype) -> Tensor | None:
    """Return one additive mask that broadcasts to [batch, heads, queries, keys], or None.

    Args:
        attention: [queries, keys] or [batch * heads, queries, keys]; bool (True = not allowed) or additive.
        padding: [batch, keys] or [keys]; bool (True = ignored) or additive.
        batch: Size of the batch, 1 when there is none.
        dtype: Of the scores.
    """
    masks = []
    if attention is not None:
        additive = _additive(attention, dtype)
        masks.append(torch.unflatten(additive, 0, (batch, -1)) if attention.dim() == 3 else additive)
    if padding is not None:
        masks.append(_additive(padding, dtype).view(batch, 1, 1, -1))
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _linear(weight: Tensor, bias: Tensor | None, *, requires_grad: bool) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer
