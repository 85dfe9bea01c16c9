"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126): propagation over the user-item graph, trained with BPR."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

from star_rl.baselines.learning import Log, Trained, Triples, at_least

#: Most steps of an epoch: each propagates over the whole graph.
STEPS = 16


class _Mean(torch.autograd.Function):
    """Mean over the layers ``A^0 e .. A^L e`` with the symmetric ``A``: a linear map that is its own transpose."""

    @staticmethod
    def forward(context: Any, table: torch.Tensor, graph: torch.Tensor, layers: int) -> torch.Tensor:
        context.graph, context.layers = graph, layers
        return _mean(table, graph, layers)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _mean(gradients[0], context.graph, context.layers), None, None


def _mean(table: torch.Tensor, graph: torch.Tensor, layers: int) -> torch.Tensor:
    total, layer = table.clone(), table
    for _ in range(layers):
        layer = graph @ layer
        total += layer
    return total / (layers + 1)


class Propagation:
    """Vectors e (U + I, d), users first, and ``A = D^-1/2 (0 R; R' 0) D^-1/2`` (U + I, U + I) over distinct pairs."""

    def __init__(self, log: Log, options: LightGCN) -> None:
        user, item = log.pairs()
        size = log.n_users + log.n_items
        ends = np.concatenate([user, item + log.n_users]), np.concatenate([item + log.n_users, user])
        self.degree = np.bincount(ends[0], minlength=size)
        weight = 1 / np.sqrt(self.degree[ends[0]] * self.degree[ends[1]])
        matrix = csr_array((weight.astype(np.float32), ends), (size, size))
        with warnings.catch_warnings():  # torch calls its CSR layout a beta
            warnings.simplefilter("ignore", UserWarning)
            parts = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
            self.graph = torch.sparse_csr_tensor(*parts, torch.from_numpy(matrix.data), (size, size))
        random = torch.Generator().manual_seed(options.seed)
        self.table = torch.empty(size, options.embedding_size).normal_(0, 0.1, generator=random).requires_grad_()
        self.layers, self._users, self._reg = options.layers, log.n_users, options.reg
        self._triples = Triples(log, options.batch_size, STEPS, options.seed)
        self._adam = torch.optim.Adam([self.table], lr=options.learning_rate)

    def epoch(self) -> None:
        for user, item, other in self._triples:
            final = _Mean.apply(self.table, self.graph, self.layers)
            places = (user, item + self._users, other + self._users)
            p, q, r = (F.embedding(place, final) for place in places)
            squares = sum(F.embedding(place, self.table).square().sum() for place in places)
            loss = -F.logsigmoid((p * (q - r)).sum(1)).sum() + self._reg * squares
            self._adam.zero_grad()
            (loss / len(user)).backward()
            self._adam.step()

    def final(self) -> torch.Tensor:
        """The propagated vectors. Shape: (U + I, d)."""
        with torch.no_grad():
            return _mean(self.table, self.graph, self.layers)

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        final = self.final()
        return (final[torch.from_numpy(users)] @ final[self._users :].T).numpy()


@dataclass(kw_only=True)
class LightGCN(Trained):
    """LightGCN, trained with BPR.

    A user whose history is the one that was trained on has the propagated vector. Any other is attached to the trained
    graph by the edges of the history: its layers are the weighted sums of its items' layers, and its own vector
    (layer 0) is the trained one, or zero for a user absent from ``visible``. A user without a history leaves all scores
    equal; the candidates then stand by their number of visible users.

    Args:
        embedding_size: length d of the vectors.
        layers: hops of the propagation.
        learning_rate: Adam's.
        reg: weight of the squared norm of what a triple touches.
        batch_size: triples of a step, more where an epoch would have above :data:`STEPS` steps.
        others: see :class:`star_rl.baselines.learning.Trained`.
    """

    embedding_size: int = 64
    layers: int = 3
    learning_rate: float = 0.01
    reg: float = 0.0001
    batch_size: int = 8192
    name = "lightgcn"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, embedding_size=self.embedding_size, batch_size=self.batch_size, layers=self.layers)
        at_least(0, learning_rate=self.learning_rate, reg=self.reg)

    def model_of(self, log: Log) -> Propagation:
        return Propagation(log, self)

    def _prepare(self) -> None:
        users, layer = self.log.n_users, self.model.table.detach()
        self.final = self.model.final().numpy()
        self.own = layer.numpy()[:users]
        stack = [layer[users:]]
        for _ in range(self.layers):
            layer = self.model.graph @ layer
            stack.append(layer[users:])
        self._by_layer = torch.stack(stack).numpy()  # (L + 1, I, d)
        self._degree = self.model.degree[users:]

    def score_items(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        items = self.final[self.log.n_users :][asked]
        if user is not None and np.isin(history, self.log.of_user(user)).all():
            return items @ self.final[user]
        if not len(history):
            return self._degree[asked].astype(float)
        own = np.zeros(items.shape[1], np.float32) if user is None else self.own[user]
        return items @ self.attached(own, history)

    def attached(self, own: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The vector of a user with this own vector and this history, attached to the trained graph. Shape: (d,)."""
        history = np.unique(history)
        weight = 1 / np.sqrt(self._degree[history] * len(history))
        hops = np.einsum("h,lhd->d", weight, self._by_layer[:-1, history])
        return (own + hops) / len(self._by_layer)
