"""Matrix factorisation with the pairwise loss of BPR (Rendle et al., UAI 2009, arXiv 1205.2618)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from star_rl.baselines.learning import Log, Trained, Triples, at_least

#: Most steps of an epoch.
STEPS = 64

#: Of a user who is folded in: the latest items that count, the items each of them is held against, Newton's steps.
LATEST, AGAINST, NEWTON = 200, 100, 6


class Factors:
    """``score(u, i) = p_u . q_i + b_i``, trained with Adam on ``-log sigmoid(score(u, i) - score(u, j))``.

    Shapes: p (U, d), q (I, d), b (I,).
    """

    def __init__(self, log: Log, options: MF) -> None:
        random = torch.Generator().manual_seed(options.seed)
        size = options.embedding_size
        shapes = ((log.n_users, size), (log.n_items, size), (log.n_items, 1))
        self.p, self.q, self.b = (
            torch.empty(shape).normal_(0, scale, generator=random).requires_grad_()
            for shape, scale in zip(shapes, (0.1, 0.1, 0.0), strict=True)
        )
        self._reg, self._triples = options.reg, Triples(log, options.batch_size, STEPS, options.seed)
        self._adam = torch.optim.Adam([self.p, self.q, self.b], lr=options.learning_rate)

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


@dataclass(kw_only=True)
class MF(Trained):
    """Matrix factorisation, trained with BPR.

    A user whose history is the one that was trained on has the trained vector. Any other (absent from ``visible``, or
    with items since) is folded in: the vector that maximises BPR's likelihood of the history against a fixed sample of
    items, with the trained users' mean and variance as prior. Without a history that is the average user.

    Args:
        embedding_size: length d of the vectors.
        learning_rate: Adam's.
        reg: weight of the squared norm of what a triple touches.
        batch_size: triples of a step, more where an epoch would have above :data:`STEPS` steps.
        others: see :class:`star_rl.baselines.learning.Trained`.
    """

    embedding_size: int = 64
    learning_rate: float = 0.005
    reg: float = 0.005
    batch_size: int = 2048
    name = "mf"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, embedding_size=self.embedding_size, batch_size=self.batch_size)
        at_least(0, learning_rate=self.learning_rate, reg=self.reg)

    def model_of(self, log: Log) -> Factors:
        return Factors(log, self)

    def _prepare(self) -> None:
        p, q, b = (tensor.detach().double().numpy() for tensor in (self.model.p, self.model.q, self.model.b))
        self._p, self._q, self._b = p, q, b[:, 0]
        self._mean, self._precision = p.mean(0), 1 / np.maximum(p.var(0), 1e-4)
        size = min(AGAINST, self.log.n_items)
        self._against = np.random.default_rng(self.seed).choice(self.log.n_items, size, replace=False)

    def score_items(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        if user is not None and np.isin(history, self.log.of_user(user)).all():
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
