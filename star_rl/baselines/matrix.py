"""Matrix factorisation with the pairwise loss of BPR (Rendle et al., UAI 2009, arXiv 1205.2618)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from star_rl.baselines.learning import Learned, Log, Triples, at_least

#: Most steps of an epoch.
STEPS = 64

#: Of a user who is folded in: the latest items that count, the items each of them is held against, Newton's steps.
LATEST, AGAINST, NEWTON = 200, 100, 6


class Factors:
    """``score(u, i) = p_u . q_i + b_i``, trained with Adam on ``-log sigmoid(score(u, i) - score(u, j))``.

    Shapes: p (U, d), q (I, d), b (I,).
    """

    def __init__(self, log: Log, size: int, learning_rate: float, reg: float, batch: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        shapes = ((log.n_users, size), (log.n_items, size), (log.n_items, 1))
        self.p, self.q, self.b = (
            torch.empty(shape).normal_(0, scale, generator=random).requires_grad_()
            for shape, scale in zip(shapes, (0.1, 0.1, 0.0), strict=True)
        )
        self._reg, self._triples = reg, Triples(log, batch, STEPS, seed)
        self._adam = torch.optim.Adam([self.p, self.q, self.b], lr=learning_rate)

    def epoch(self) -> None:
        for user, item, other in self._triples:
            p, q, r = F.embedding(user, self.p), F.embedding(item, self.q), F.embedding(other, self.q)
            b, c = F.embedding(item, self.b)[:, 0], F.embedding(other, self.b)[:, 0]
            squares = p.square().sum() + q.square().sum() + r.square().sum() + b.square().sum() + c.square().sum()
            loss = -F.logsigmoid((p * (q - r)).sum(1) + b - c).sum() + self._reg * squares
            self._adam.zero_grad()
            (loss / len(user)).backward()
            self._adam.step()

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return (self.p[torch.from_numpy(users)] @ self.q.T + self.b[:, 0]).numpy()


class MF(Learned):
    """Matrix factorisation, learnt by BPR.

    A user whose history is the one that was learnt has the learnt vector. Any other (absent from ``visible``, or with
    items since) is folded in: the vector that maximises BPR's likelihood of the history against a fixed sample of
    items, with the learnt users' mean and variance as prior. Without a history that is the average user.

    Args:
        embedding_size: length d of the vectors.
        learning_rate: Adam's learning rate.
        reg: weight of the squared norm of what a triple touches.
        batch: triples of a step, more where an epoch would have above :data:`STEPS` steps.
        epochs, patience: see :func:`star_rl.baselines.learning.train`.
        threads: of torch.

    Raises:
        StarError: an option is out of range.
    """

    name = "mf"

    def __init__(
        self,
        seed: int = 0,
        *,
        embedding_size: int = 64,
        learning_rate: float = 0.005,
        reg: float = 0.005,
        batch: int = 2048,
        epochs: int = 200,
        patience: int = 8,
        threads: int = 1,
    ) -> None:
        at_least(1, embedding_size=embedding_size, batch=batch)
        at_least(0, learning_rate=learning_rate, reg=reg)
        self._options = (embedding_size, learning_rate, reg, batch, seed)
        super().__init__(seed, epochs=epochs, patience=patience, threads=threads)

    def _fitted(self) -> None:
        p, q, b = (tensor.detach().double().numpy() for tensor in (self._model.p, self._model.q, self._model.b))
        self._p, self._q, self._b = p, q, b[:, 0]
        self._mean, self._precision = p.mean(0), 1 / np.maximum(p.var(0), 1e-4)
        size = min(AGAINST, self._log.n_items)
        self._against = np.random.default_rng(self._seed).choice(self._log.n_items, size, replace=False)

    def _make(self, log: Log) -> Factors:
        return Factors(log, *self._options)

    def _scores(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        if user is not None and np.isin(history, self._log.of_user(user)).all():
            vector = self._p[user]
        else:
            vector = self.folded(history)
        return self._q[asked] @ vector + self._b[asked]

    def folded(self, history: np.ndarray) -> np.ndarray:
        """The vector of a user with this history, by Newton's method (the problem is convex). Shape: (d,)."""
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
