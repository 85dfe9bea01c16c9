"""SASRec (Kang and McAuley, ICDM 2018, arXiv 1808.09781): a causal transformer over the order of a history.

It is trained with cross-entropy over all items (over a uniform sample of them where there are many) in place of the
paper's single negative, which is what keeps it a strong baseline (Klenitskiy and Vasilev, RecSys 2023, arXiv
2309.07602).

Notation: I items, d width, b sequences of a batch, s positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from star_rl.baselines.learning import Log, Trained
from star_rl.errors import StarError
from star_rl.options import Number, Size, section


class AttentionBlock(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind a layer norm and a dropout."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (b, s, d) -> (b, s, d). Padding stands on the right, where causality hides it."""
        rows, length, width = x.shape
        parts = self.inward(self.before(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=drop, is_causal=True)
        x = x + F.dropout(self.outward(mixed.transpose(1, 2).reshape(rows, length, width)), drop)
        return x + F.dropout(self.narrow(F.gelu(self.wide(self.between(x)))), drop)


class Encoder(nn.Module):
    """Items and places to the vector of what comes next; item vectors are shared with the output."""

    def __init__(self, count: int, options: SASRec) -> None:
        super().__init__()
        width, dropout = options.embedding_size, options.dropout
        self.items, self.places = nn.Embedding(count, width), nn.Embedding(options.max_length, width)
        self.bias = nn.Parameter(torch.zeros(count))
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, 0, width**-0.5)
        self.blocks = nn.ModuleList(AttentionBlock(width, options.heads, dropout) for _ in range(options.layers))
        self.last, self.dropout = nn.LayerNorm(width), dropout

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Shapes: (b, s) -> (b, s, d). Places count from the first item of the window."""
        x = self.items(items) + self.places.weight[: items.shape[1]]
        x = F.dropout(x, self.dropout if self.training else 0.0)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Transformer:
    """What :func:`star_rl.baselines.learning.train` trains. Sequences are cut into windows of ``length`` steps."""

    def __init__(self, log: Log, options: SASRec) -> None:
        torch.manual_seed(options.seed)  # within `isolated`: initial weights and dropout
        self.encoder = Encoder(log.n_items, options)
        self._adam = torch.optim.AdamW(
            self.encoder.parameters(), lr=options.learning_rate, weight_decay=options.reg, fused=True
        )
        self._length, self._batch, self._negatives = options.max_length, options.batch_size, options.negatives
        self._count, self._random = log.n_items, np.random.default_rng(options.seed)
        self._windows = list(windows(log, options.max_length))
        self._lengths = np.array([len(window) for window in self._windows], np.int64)

    def epoch(self) -> None:
        self.encoder.train()
        for rows in self._batches():
            width = max(map(len, rows))
            items = np.zeros((len(rows), width), np.int64)
            real = np.zeros((len(rows), width), bool)
            for at, row in enumerate(rows):
                items[at, : len(row)], real[at, : len(row)] = row, True
            inputs, targets = torch.from_numpy(items[:, :-1]), torch.from_numpy(items[:, 1:])
            mask = torch.from_numpy(real[:, 1:])
            loss = self._loss(self.encoder(inputs)[mask], targets[mask])
            self._adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
            self._adam.step()

    def _batches(self) -> Iterator[list[np.ndarray]]:
        """Windows of similar length together, so that little is padding, and as many as fit the places of a batch;
        batches in random order."""
        order = self._random.permutation(len(self._windows))
        order = order[np.argsort(self._lengths[order], kind="stable")]
        batches, start, places = [], 0, self._batch * (self._length + 1)
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop - start + 1) * self._lengths[order[stop]] <= places:
                stop += 1
            batches.append(order[start:stop])
            start = stop
        for at in self._random.permutation(len(batches)):
            yield [self._windows[window] for window in batches[at]]

    def _loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        table, bias = self.encoder.items.weight, self.encoder.bias
        if self._count <= self._negatives:
            return F.cross_entropy(states @ table.T + bias, targets)
        drawn = torch.from_numpy(self._random.integers(0, self._count, self._negatives))
        own = (states * F.embedding(targets, table)).sum(1) + F.embedding(targets, bias[:, None])[:, 0]
        others = states @ F.embedding(drawn, table).T + F.embedding(drawn, bias[:, None])[:, 0]
        others = others.masked_fill(drawn == targets[:, None], -torch.inf)
        return (torch.logsumexp(torch.cat([own[:, None], others], 1), 1) - own).mean()

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        table, bias = self.encoder.items.weight, self.encoder.bias
        with torch.no_grad():
            return (self.states(histories) @ table.T + bias).numpy()

    def states(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """The state after the last item of each history; none may be empty. Shape: (b, d)."""
        self.encoder.eval()
        lengths = np.array([min(len(history), self._length) for history in histories])
        items = np.zeros((len(histories), lengths.max()), np.int64)
        for at, history in enumerate(histories):
            items[at, : lengths[at]] = history[-self._length :]
        with torch.no_grad():
            return self.encoder(torch.from_numpy(items))[torch.arange(len(lengths)), torch.from_numpy(lengths - 1)]


def windows(log: Log, length: int) -> Iterator[np.ndarray]:
    """Each user's sequence from its end backwards in windows of up to ``length`` steps, which share one item."""
    for user in range(log.n_users):
        row = log.of_user(user)
        while len(row) > 1:
            yield row[-length - 1 :]
            row = row[: -length or None] if len(row) > length else row[:0]


@section
class SASRec(Trained):
    """SASRec. It reads the history of the task alone, so a user absent from ``visible`` is served like any other;
    without a known item in the history, the items' biases decide, which follow popularity.

    Args:
        embedding_size: width d. Divisible by ``heads``.
        max_length: latest items that are read.
        reg: AdamW's weight decay.
        batch_size: sequences of full length in a step; of shorter ones as many more.
        negatives: items that a step's targets are held against; all, where there are no more.
        others: see :class:`star_rl.baselines.learning.Trained`.
    """

    embedding_size: Size = 64
    max_length: Size = 50
    layers: Size = 2
    heads: Size = 2
    dropout: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.2
    learning_rate: Number = 0.001
    reg: Number = 0.01
    batch_size: Size = 32
    negatives: Size = 512
    epochs: Size = 100
    patience: Size = 5
    name = "sasrec"

    def __post_init__(self) -> None:
        if self.embedding_size % self.heads:
            raise StarError(
                f"embedding_size={self.embedding_size} is not divisible by heads={self.heads}", "change one of them"
            )

    def model_of(self, log: Log) -> Transformer:
        return Transformer(log, self)

    def score_items(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        encoder = self.model.encoder
        if not len(history):
            return encoder.bias.detach().numpy()[asked]
        state = self.model.states([history])[0].numpy()
        return encoder.items.weight.detach().numpy()[asked] @ state + encoder.bias.detach().numpy()[asked]
