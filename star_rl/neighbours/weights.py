"""How a shared interaction counts: the weights of neighbours and their decay with time.

Notation: rows (say items) i, j; mids (users) u; d_u the degree of u; x_iu the value of an interaction, 1 without decay.

``cosine``
    sum_u x_iu x_ju / sqrt(m_i m_j), with m_i = sum_u x_iu^2.
``conditional``
    sum_u x_iu x_ju / (m_i m_j^alpha): P(j | i) damped by the popularity of j (Deshpande and Karypis 2004, section 4.2;
    there the sum also normalises users). alpha = 0 is plain P(j | i), alpha = 1 is lift up to a constant.
``log``
    sum_u f_u x_iu x_ju / sqrt(m_i m_j), with f_u = 1 / log2(1 + d_u) and m_i = sum_u f_u x_iu^2: a cosine in which mids
    of high degree say less (after Adamic and Adar 2003). For UserCF that damps popular items.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from star_rl.options import Count, Positive, Share, Whole, options

WeightName = Literal["cosine", "conditional", "log"]
WEIGHTS: tuple[WeightName, ...] = get_args(WeightName)

#: Ages beyond this many half-lives count as this many, so that no weight under- or overflows.
MAX_HALF_LIVES = 60.0


@options
class Decay:
    """Exponential forgetting: an interaction counts ``2 ** (-(now - timestamp) / half_life)``, never more than 1.

    Args:
        half_life: in the unit of the timestamps (seconds), > 0.
        now: the reference time; ``None`` takes the latest timestamp of the graph. Needed for updates.
    """

    half_life: Positive
    now: Whole | None = None

    def values(self, timestamps: np.ndarray) -> np.ndarray:
        """Return the value of each interaction. Shape: as ``timestamps``, float64 in (0, 1]."""
        if not len(timestamps):
            return np.zeros(0)
        now = int(timestamps.max()) if self.now is None else self.now
        age = (now - timestamps).astype(np.float64) / self.half_life
        return np.exp2(-np.clip(age, 0.0, MAX_HALF_LIVES))


@options
class Weighting:
    """One of :data:`WEIGHTS` with its parameters. They change results (unlike threads or Ray, which do not).

    Args:
        name: ``cosine``, ``conditional`` or ``log``.
        alpha: popularity correction of ``conditional``, 0 (none) to 1; other weights ignore it.
        decay: forgetting, or None.
        window: ItemCF counts items as chosen together in half-overlapping windows of this many interactions of a user
            (:mod:`star_rl.neighbours.windows`); 0 for the whole sequence.
    """

    name: WeightName = "cosine"
    alpha: Share = 0.5
    decay: Decay | None = None
    window: Count = 0

    def factor(self, degrees: np.ndarray) -> np.ndarray | None:
        """f_u of the mids with these degrees, or None where all are 1."""
        return 1.0 / np.log2(1.0 + np.maximum(degrees, 1)) if self.name == "log" else None

    def scales(self, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors of a sum, for row and for target, from the masses m. Shapes: (n,), (n,) float64."""
        safe = np.where(
            masses > 0, masses, 1.0
        )  # a row without interactions has no neighbour, so its scale is never used
        if self.name == "conditional":
            return 1.0 / safe, safe**-self.alpha
        root = 1.0 / np.sqrt(safe)
        return root, root
