"""Models of the pairwise loss BPR (Rendle et al., UAI 2009, arXiv 1205.2618): matrix factorisation and LightGCN.

Notation: U users, I items, d length of the vectors.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

from star_rl.baselines.learning import Log, Trained
from star_rl.options import Number, Size, section

_REDRAWS = 8
#: Of a user who is folded in: the latest items that count, the items each of them is held against, Newton's steps.
LATEST, AGAINST, NEWTON = 200, 100, 6


class Triples:
    """Mini-batches of (user, item, an item the user does not have), as BPR draws them.

    Negatives are drawn anew where the user has them; one that has nearly everything keeps what the last draw gave. A
    batch is larger where an epoch would have more than ``steps`` of them: Adam moves whole tables in every step.
    """

    def __init__(self, log: Log, batch: int, steps: int, seed: int) -> None:
        user, item = log.pairs()
        self._user, self._item, self._count = torch.from_numpy(user), torch.from_numpy(item), log.n_items
        self._keys = self._user * log.n_items + self._item
        self._batch, self._random = max(batch, -(-len(user) // steps)), torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self._user), generator=self._random)
        user, item = self._user[order], self._item[order]
        other = torch.randint(self._count, order.shape, generator=self._random)
        wrong = self._held(user, other).nonzero()[:, 0]
        for _ in range(_REDRAWS):
            if not len(wrong):
                break
            other[wrong] = torch.randint(self._count, wrong.shape, generator=self._random)
            wrong = wrong[self._held(user[wrong], other[wrong])]
        yield from zip(*(column.split(self._batch) for column in (user, item, other)), strict=True)

    def _held(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        keys = user * self._count + item
        at = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return self._keys[at] == keys


class Pairwise(ABC):
    """A model whose tables Adam trains on ``-log sigmoid(score(u, i) - score(u, j)) + reg * squares``."""

    def __init__(self, log: Log, options: MF | LightGCN, steps: int, tables: list[torch.Tensor]) -> None:
        self._reg, self._triples = options.reg, Triples(log, options.batch_size, steps, options.seed)
        self._adam = torch.optim.Adam(tables, lr=options.learning_rate)

    def epoch(self) -> None:
        for user, item, other in self._triples:
            margin, squares = self.compared(user, item, other)
            loss = -F.logsigmoid(margin).sum() + self._reg * squares
            self._adam.zero_grad()
            (loss / len(user)).backward()
            self._adam.step()

    @abstractmethod
    def compared(self, user: torch.Tensor, item: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return score differences of triples and the squared norm of what they touch. Shapes: (b,), ()."""


class Factors(Pairwise):
    """``score(u, i) = p_u . q_i + b_i``. Shapes: p (U, d), q (I, d), b (I,)."""

    def __init__(self, log: Log, options: MF) -> None:
        random = torch.Generator().manual_seed(options.seed)
        size = options.embedding_size
        shapes = ((log.n_users, size), (log.n_items, size), (log.n_items, 1))
        self.p, self.q, self.b = (
            torch.empty(shape).normal_(0, scale, generator=random).requires_grad_()
            for shape, scale in zip(shapes, (0.1, 0.1, 0.0), strict=True)
        )
        super().__init__(log, options, 64, [self.p, self.q, self.b])

    def compared(self, user: torch.Tensor, item: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, Any]:
        p, q, r = F.embedding(user, self.p), F.embedding(item, self.q), F.embedding(other, self.q)
        b, c = F.embedding(item, self.b)[:, 0], F.embedding(other, self.b)[:, 0]
        squares = p.square().sum() + q.square().sum() + r.square().sum() + b.square().sum() + c.square().sum()
        return (p * (q - r)).sum(1) + b - c, squares

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return (self.p[torch.from_numpy(users)] @ self.q.T + self.b[:, 0]).numpy()


@section
class MF(Trained):
    """Matrix factorisation.

    A user whose history is the one that was trained on has the trained vector. Any other (absent from ``visible``, or
    with items since) is folded in: the vector that maximises BPR's likelihood of the history against a fixed sample of
    items, with the trained users' mean and variance as prior. Without a history that is the average user.

    Args:
        reg: weight of the squared norm of what a triple touches.
        batch_size: triples of a step, more where an epoch would have above 64 steps.
        others: see :class:`star_rl.baselines.learning.Trained`.
    """

    embedding_size: Size = 64
    learning_rate: Number = 0.005
    reg: Number = 0.005
    batch_size: Size = 2048
    name = "mf"

    def model_of(self, log: Log) -> Factors:
        return Factors(log, self)

    def _prepare(self) -> None:
        p, q, b = (tensor.detach().double().numpy() for tensor in (self.model.p, self.model.q, self.model.b))
        self._p, self._q, self._b = p, q, b[:, 0]
        self._mean, self._precision = p.mean(0), 1 / np.maximum(p.var(0), 1e-4)
        size = min(AGAINST, self.log.n_items)
        self._against = np.random.default_rng(self.seed).choice(self.log.n_items, size, replace=False)

    def score_items(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        vector = self.folded(history) if user is None or not self.log.has(user, history) else self._p[user]
        return self._q[asked] @ vector + self._b[asked]

    def folded(self, history: np.ndarray) -> np.ndarray:
        """Fit the vector of a user with this history by Newton's method (the problem is convex). Shape: (d,)."""
        vector = self._mean.copy()
        items = np.array(list(dict.fromkeys(history[::-1].tolist()))[:LATEST], np.int64)
        others = self._against[~np.isin(self._against, items)]
        if not len(items) or not len(others):
            return vector
        gap = (self._q[items][:, None] - self._q[others]).reshape(-1, self._q.shape[1])
        base = (self._b[items][:, None] - self._b[others]).reshape(-1)
        for _ in range(NEWTON):
            miss = 1 / (1 + np.exp(np.clip(gap @ vector + base, -40, 40)))
            slope = gap.T @ miss / len(others) - self._precision * (vector - self._mean)
            curvature = (gap.T * (miss * (1 - miss))) @ gap / len(others) + np.diag(self._precision)
            vector = vector + np.linalg.solve(curvature, slope)
        return vector


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


class Propagation(Pairwise):
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
        self.layers, self._users = options.layers, log.n_users
        super().__init__(log, options, 16, [self.table])  # each step propagates over the whole graph

    def compared(self, user: torch.Tensor, item: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, Any]:
        final = _Mean.apply(self.table, self.graph, self.layers)
        places = (user, item + self._users, other + self._users)
        p, q, r = (F.embedding(place, final) for place in places)
        return (p * (q - r)).sum(1), sum(F.embedding(place, self.table).square().sum() for place in places)

    def final(self) -> torch.Tensor:
        """Return the propagated vectors. Shape: (U + I, d)."""
        with torch.no_grad():
            return _mean(self.table, self.graph, self.layers)

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        final = self.final()
        return (final[torch.from_numpy(users)] @ final[self._users :].T).numpy()


@section
class LightGCN(Trained):
    """LightGCN (He et al., SIGIR 2020, arXiv 2002.02126): propagation over the user-item graph.

    A user whose history is the one that was trained on has the propagated vector. Any other is attached to the trained
    graph by the edges of the history: its layers are the weighted sums of its items' layers, and its own vector
    (layer 0) is the trained one, or zero for a user absent from ``visible``. A user without a history leaves all scores
    equal; the candidates then stand by their number of visible users.

    Args:
        layers: hops of the propagation.
        batch_size: triples of a step, more where an epoch would have above 16 steps.
        others: see :class:`MF`.
    """

    embedding_size: Size = 64
    layers: Size = 3
    learning_rate: Number = 0.01
    reg: Number = 0.0001
    batch_size: Size = 8192
    name = "lightgcn"

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
        if user is not None and self.log.has(user, history):
            return items @ self.final[user]
        if not len(history):
            return self._degree[asked].astype(float)
        return items @ self.attached(np.zeros(items.shape[1], np.float32) if user is None else self.own[user], history)

    def attached(self, own: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Return the vector of a user with this own vector, attached to the graph by this history. Shape: (d,)."""
        history = np.unique(history)
        weight = 1 / np.sqrt(self._degree[history] * len(history))
        hops = np.einsum("h,lhd->d", weight, self._by_layer[:-1, history])
        return (own + hops) / len(self._by_layer)
