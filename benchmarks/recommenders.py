"""RecBole's and Cornac's models, driven as the project drives its own (star_rl.baselines.learning).

Their losses, initial values, negative sampling, optimisers and mini-batches are theirs. When to stop, what is held out
for that, the training on everything afterwards, and the ranking of 20 candidates are the same for all.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from star_rl.baselines.learning import Log, Trained

#: Settings of each peer's grid; the one that ranks the held-out items best is the one that is scored. Embeddings have
#: 64 numbers everywhere. What a setting does not name is the library's default. A batch of LightGCN is about ours: each
#: one propagates over the whole graph; 2 layers and 1e-5 are RecBole's own, 3 and 1e-4 ours and the paper's.
GRIDS: dict[str, list[dict[str, Any]]] = {
    "recbole_lightgcn": [
        {"learning_rate": 0.01, "n_layers": 3, "reg_weight": 1e-4, "train_batch_size": 8192},
        {"learning_rate": 0.02, "n_layers": 2, "reg_weight": 1e-5, "train_batch_size": 8192},
    ],
    "recbole_bpr": [{"learning_rate": 0.001}, {"learning_rate": 0.005}],
    "cornac_bpr": [
        {"learning_rate": 0.05, "lambda_reg": 0.01},
        {"learning_rate": 0.05, "lambda_reg": 0.002},
        {"learning_rate": 0.01, "lambda_reg": 0.01},
    ],
}


@dataclass(kw_only=True)
class Peer(Trained):
    """A peer's model; ranks by the vector it was trained to for the user."""

    name: str
    setting: dict[str, Any]

    def model_of(self, log: Log) -> Any:
        setting = {**self.setting, "seed": self.seed}
        if self.name == "cornac_bpr":
            return CornacBPR(log, setting)
        return RecBole(log, {"recbole_bpr": "BPR", "recbole_lightgcn": "LightGCN"}[self.name], setting)

    def score_items(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        assert user is not None, "every user of this benchmark is visible"
        return self.model.scores(np.array([user]), [history])[0][asked]


class CornacBPR:
    """Cornac's BPR: SGD over single triples, with item biases."""

    def __init__(self, log: Log, setting: dict[str, Any]) -> None:
        from cornac.data import Dataset
        from cornac.models import BPR

        user, item = log.pairs()
        self._data = Dataset.from_uir([(u, i, 1.0) for u, i in zip(user.tolist(), item.tolist(), strict=True)])
        self._model = BPR(k=64, max_iter=1, **setting)
        self._users = np.array([self._data.uid_map[u] for u in range(log.n_users)])
        self._items = np.array([self._data.iid_map.get(i, -1) for i in range(log.n_items)])

    def epoch(self) -> None:
        self._model.fit(self._data)

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        model, known = self._model, self._items >= 0
        out = np.full((len(users), len(known)), -np.inf)
        items = self._items[known]
        out[:, known] = model.u_factors[self._users[users]] @ model.i_factors[items].T + model.i_biases[items]
        return out


def _names_of_old() -> None:
    """RecBole 1.2.1 asks for names that NumPy 2 and SciPy 1.13 took away; what they stood for is given back."""
    from scipy.sparse import dok_matrix

    np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_  # type: ignore[attr-defined]
    dok_matrix._update = lambda self, values: self._dict.update(values)


class RecBole:
    """A general recommender of RecBole with its own trainer, one epoch at a time."""

    def __init__(self, log: Log, model: str, setting: dict[str, Any]) -> None:
        _names_of_old()
        from recbole.config import Config
        from recbole.data import create_dataset
        from recbole.data.utils import data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        logging.getLogger().setLevel(logging.ERROR)
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        user, item = log.pairs()
        rows = [f"{u}\t{i}\n" for u, i in zip(user.tolist(), item.tolist(), strict=True)]
        (root / "set").mkdir()
        for part, lines in (("train", rows), ("valid", rows[:1]), ("test", rows[:1])):
            (root / "set" / f"set.{part}.inter").write_text("user_id:token\titem_id:token\n" + "".join(lines))
        for kind, count in (("user", log.n_users), ("item", log.n_items)):  # so that ids without rows have codes too
            (root / "set" / f"set.{kind}").write_text(f"{kind}_id:token\n" + "".join(f"{n}\n" for n in range(count)))
        config = Config(
            model=model,
            dataset="set",
            config_dict={
                "data_path": str(root),
                "checkpoint_dir": str(root / "saved"),
                "benchmark_filename": ["train", "valid", "test"],
                "load_col": {"inter": ["user_id", "item_id"], "user": ["user_id"], "item": ["item_id"]},
                "embedding_size": 64,
                "use_gpu": False,
                "show_progress": False,
                "reproducibility": True,
                **setting,
            },
        )
        init_seed(config["seed"], True)
        data = create_dataset(config)
        self._train, *_ = data_preparation(config, data)
        self._model = get_model(model)(config, self._train.dataset)
        self._trainer = get_trainer(config["MODEL_TYPE"], model)(config, self._model)
        self._users = torch.from_numpy(data.token2id("user_id", [str(n) for n in range(log.n_users)]))
        self._items = data.token2id("item_id", [str(n) for n in range(log.n_items)])
        self._done = 0

    def epoch(self) -> None:
        self._trainer._train_epoch(self._train, self._done, show_progress=False)
        self._done += 1

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        self._model.eval()
        with torch.no_grad():
            batch = {self._model.USER_ID: self._users[torch.from_numpy(users)]}
            found = self._model.full_sort_predict(batch).view(len(users), -1).numpy()
        return found[:, self._items]
