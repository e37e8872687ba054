"""Text: BERT- and DistilBERT-like encoders, GPT- and T5-like decoders, multi-query attention, translation."""

# mypy: no-warn-return-any
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHead(nn.Module):
    """Attention of `x` to `memory` with plain projections and an optional additive bias on the scores."""

    def __init__(self, dim: int, heads: int, *, bias: bool = True, scaled: bool = True) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5 if scaled else 1.0
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=bias) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(memory)), self.split(self.value(memory))
        scores = q @ k.transpose(-2, -1) * self.scale
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """Return [batch, heads, positions, head_dim]."""
        return torch.unflatten(x, -1, (-1, self.head_dim)).transpose(1, 2)


class PostNormBlock(nn.Module):
    """Encoder layer that normalises behind each shortcut."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = MultiHead(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.intermediate = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, bias))
        return self.norm2(x + self.output(F.gelu(self.intermediate(x))))


class Bert(nn.Module):
    """BERT-like classifier (Devlin et al., 2019): three embeddings, padding mask, pooler."""

    def __init__(self, vocabulary: int = 60, dim: int = 48, blocks: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(16, dim)
        self.types = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(PostNormBlock(dim, 4, 96) for _ in range(blocks))
        self.pooler = nn.Linear(dim, dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(places) + self.types(token_type_ids))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for block in self.blocks:
            x = block(x, bias)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class DistilBert(nn.Module):
    """DistilBERT-like classifier (Sanh et al., 2019): no token types, boolean mask, a layer before the last."""

    def __init__(self, vocabulary: int = 60, dim: int = 48, classes: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(1, 16, dim) * 0.1)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(PostNormBlock(dim, 3, 80) for _ in range(2))
        self.pre_classifier = nn.Linear(dim, dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.norm(self.words(input_ids) + self.positions[:, : input_ids.shape[1]])
        bias = torch.zeros(attention_mask.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(attention_mask == 0, -1e4)[:, None, None]
        for block in self.blocks:
            x = block(x, bias)
        return self.classifier(F.relu(self.pre_classifier(x[:, 0])))


class CausalAttention(nn.Module):
    """GPT-2's way: one projection split by an attribute, heads counted by an attribute, a mask as buffer."""

    mask: Tensor

    def __init__(self, dim: int, heads: int, length: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = dim // heads
        self.split_size = dim
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).tril()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
            for part in self.project(x).split(self.split_size, dim=2)
        )
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        scores = scores.masked_fill(~self.mask[:, :, :length, :length], float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.out(y.reshape(batch, length, self.num_heads * self.head_dim))


class GPTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, length: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = CausalAttention(dim, heads, length)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Decoder with learned positions and an output layer tied to the embedding (Radford et al., 2019)."""

    def __init__(self, vocabulary: int = 60, dim: int = 48, blocks: int = 2, length: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(length, dim)
        self.blocks = nn.Sequential(*[GPTBlock(dim, 4, length) for _ in range(blocks)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


class MultiQueryAttention(nn.Module):
    """Every head of the queries shares the one of keys and values (Shazeer, 2019)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, self.head_dim)
        self.value = nn.Linear(dim, self.head_dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.unflatten(self.query(x), -1, (-1, self.head_dim)).transpose(1, 2)
        k, v = self.key(x)[:, None], self.value(x)[:, None]
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class MultiQuery(nn.Module):
    def __init__(self, vocabulary: int = 60, dim: int = 48, classes: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = MultiQueryAttention(dim, 6)
        self.fc1 = nn.Linear(dim, 64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        x = x + self.attention(self.norm(x))
        return self.fc2(F.gelu(self.fc1(x.mean(1))))


class RelativeBias(nn.Module):
    """Bias of scores by head and clipped distance."""

    def __init__(self, heads: int, reach: int = 8) -> None:
        super().__init__()
        self.reach = reach
        self.table = nn.Embedding(2 * reach + 1, heads)

    def forward(self, queries: int, keys: int) -> Tensor:
        apart = torch.arange(keys)[None] - torch.arange(queries)[:, None]
        return self.table(apart.clamp(-self.reach, self.reach) + self.reach).permute(2, 0, 1)[None]


class T5Block(nn.Module):
    def __init__(self, dim: int, heads: int, *, cross: bool) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-6)
        self.attention = MultiHead(dim, heads, bias=False, scaled=False)
        self.norm2 = nn.RMSNorm(dim, eps=1e-6) if cross else None
        self.cross = MultiHead(dim, heads, bias=False, scaled=False) if cross else None
        self.norm3 = nn.RMSNorm(dim, eps=1e-6)
        self.wi = nn.Linear(dim, 2 * dim, bias=False)
        self.wo = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, bias)
        if self.cross is not None and self.norm2 is not None and memory is not None:
            x = x + self.cross(self.norm2(x), memory)
        return x + self.wo(F.relu(self.wi(self.norm3(x))))


class T5(nn.Module):
    """Encoder and decoder with RMSNorm, unscaled attention and biases by distance (Raffel et al., 2020)."""

    def __init__(self, vocabulary: int = 60, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.shared = nn.Embedding(vocabulary, dim)
        self.encoder_bias = RelativeBias(heads)
        self.decoder_bias = RelativeBias(heads)
        self.encoder = nn.ModuleList(T5Block(dim, heads, cross=False) for _ in range(2))
        self.decoder = nn.ModuleList(T5Block(dim, heads, cross=True) for _ in range(2))
        self.encoder_norm = nn.RMSNorm(dim, eps=1e-6)
        self.decoder_norm = nn.RMSNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        source, target = input_ids.shape[1], decoder_input_ids.shape[1]
        x, bias = self.shared(input_ids), self.encoder_bias(source, source)
        for block in self.encoder:
            x = block(x, bias)
        memory = self.encoder_norm(x)
        future = torch.full((target, target), -1e4).triu(1)
        y, bias = self.shared(decoder_input_ids), self.decoder_bias(target, target) + future
        for block in self.decoder:
            y = block(y, bias, memory)
        return self.head(self.decoder_norm(y))


class Translation(nn.Module):
    """torch's own `nn.Transformer` between two embeddings and an output layer."""

    def __init__(self, vocabulary: int = 60, dim: int = 32) -> None:
        super().__init__()
        self.source = nn.Embedding(vocabulary, dim)
        self.target = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(1, 16, dim) * 0.1)
        self.transformer = nn.Transformer(dim, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x = self.source(source) + self.positions[:, : source.shape[1]]
        y = self.target(target) + self.positions[:, : target.shape[1]]
        future = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.transformer(x, y, tgt_mask=future, tgt_is_causal=True))
