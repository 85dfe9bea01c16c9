"""Baselines that need no language model. The trained ones import torch when they are first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from star_rl.baselines.base import Baseline
from star_rl.baselines.simple import ItemKNN, Popularity, Random, UserKNN

if TYPE_CHECKING:
    from star_rl.baselines.bpr import MF, LightGCN
    from star_rl.baselines.sequential import SASRec

_TRAINED = {"MF": "bpr", "LightGCN": "bpr", "SASRec": "sequential"}

__all__ = ["MF", "Baseline", "ItemKNN", "LightGCN", "Popularity", "Random", "SASRec", "UserKNN"]


def __getattr__(name: str) -> Any:
    if name not in _TRAINED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TRAINED[name]}"), name)
