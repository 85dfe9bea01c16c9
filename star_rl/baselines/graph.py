"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126): propagation over the user-item graph, learnt by BPR."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

from star_rl.baselines.learning import Learned, Log, Triples, at_least

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

    def __init__(
        self, log: Log, embedding_size: int, layers: int, learning_rate: float, reg: float, batch: int, seed: int
    ) -> None:
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
        random = torch.Generator().manual_seed(seed)
        self.table = torch.empty(size, embedding_size).normal_(0, 0.1, generator=random).requires_grad_()
        self.layers, self._users, self._reg = layers, log.n_users, reg
        self._triples = Triples(log, batch, STEPS, seed)
        self._adam = torch.optim.Adam([self.table], lr=learning_rate)

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


class LightGCN(Learned):
    """LightGCN, learnt by BPR.

    A user whose history is the one that was learnt has the propagated vector. Any other is attached to the learnt graph
    by the edges of the history: its layers are the weighted sums of its items' layers, and its own vector (layer 0) is
    the learnt one, or zero for a user absent from ``visible``. A user without a history leaves all scores equal; the
    candidates then stand by their number of visible users.

    Args:
        layers: hops of the propagation.
        batch: triples of a step, more where an epoch would have above :data:`STEPS` steps.
        others: as :class:`star_rl.baselines.matrix.MF`.

    Raises:
        StarError: an option is out of range.
    """

    name = "lightgcn"

    def __init__(
        self,
        seed: int = 0,
        *,
        embedding_size: int = 64,
        layers: int = 3,
        learning_rate: float = 0.01,
        reg: float = 0.0001,
        batch: int = 8192,
        epochs: int = 200,
        patience: int = 8,
        threads: int = 1,
    ) -> None:
        at_least(1, embedding_size=embedding_size, batch=batch, layers=layers)
        at_least(0, learning_rate=learning_rate, reg=reg)
        self._options = (embedding_size, layers, learning_rate, reg, batch, seed)
        super().__init__(seed, epochs=epochs, patience=patience, threads=threads)

    def _fitted(self) -> None:
        users, model = self._log.n_users, self._model
        self._final = model.final().numpy()
        layer = model.table.detach()
        stack = [layer[users:]]
        for _ in range(model.layers):
            layer = model.graph @ layer
            stack.append(layer[users:])
        self._own = model.table.detach().numpy()[:users]
        self._by_layer = torch.stack(stack).numpy()  # (L + 1, I, d)
        self._degree = model.degree[users:]

    def _make(self, log: Log) -> Propagation:
        return Propagation(log, *self._options)

    def _scores(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        items = self._final[self._log.n_users :][asked]
        if user is not None and np.isin(history, self._log.of_user(user)).all():
            return items @ self._final[user]
        own = np.zeros(items.shape[1], np.float32) if user is None else self._own[user]
        history = np.unique(history)
        if not len(history):
            return self._degree[asked].astype(float)
        weight = 1 / np.sqrt(self._degree[history] * len(history))
        hops = np.einsum("h,lhd->d", weight, self._by_layer[:-1, history])
        return items @ ((own + hops) / len(self._by_layer))
