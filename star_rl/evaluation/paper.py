"""Published figures in percent: the paper's (arXiv 2602.09829), HR_avg, each with its table; and STARec's, NDCG.

The paper's were measured on AgentRecBench's own tasks, 100 a sub-task. Only figures on these tasks are comparable.
"""

from __future__ import annotations

from star_rl.evaluation.tasks import Cell
from star_rl.records import SCENARIOS

PAPER = "arXiv 2602.09829"
SOURCES = ("amazon", "goodreads", "yelp")
#: Samples of each sub-task (section 4.1, appendix B).
SAMPLES = 100

#: Table 1. Columns: the scenarios of amazon, of goodreads, of yelp.
_TABLE1 = {
    "MF": (15.0, 15.0, 15.0, 38.4, 49.5, 15.0, 15.0, 15.0, 29.7, 21.3, 15.0, 15.0, 15.0, 42.0, 65.9),
    "LightGCN": (15.0, 15.0, 15.0, 32.3, 59.1, 15.0, 15.0, 15.0, 18.0, 22.3, 15.0, 15.0, 15.0, 31.6, 68.9),
    "BaseAgent": (44.0, 16.3, 14.0, 17.3, 19.7, 20.3, 22.3, 16.2, 32.0, 29.7, 4.0, 4.0, 4.0, 5.7, 4.3),
    "CoTAgent": (39.7, 19.3, 9.0, 17.7, 16.0, 23.0, 20.3, 14.5, 24.0, 16.3, 4.3, 4.3, 4.3, 3.3, 3.0),
    "MemoryAgent": (43.7, 15.3, 11.0, 18.3, 17.7, 18.0, 16.7, 15.5, 29.3, 29.7, 3.7, 4.3, 4.3, 5.0, 4.0),
    "CoTMemAgent": (33.3, 16.7, 12.0, 13.3, 18.7, 17.3, 16.7, 15.5, 23.3, 21.3, 4.3, 3.7, 4.3, 4.3, 4.0),
    "Baseline666": (60.0, 50.3, 48.7, 50.7, 71.3, 54.7, 38.7, 49.5, 66.0, 63.3, 7.3, 1.3, 2.7, 0.0, 0.0),
    "DummyAgent": (54.0, 59.0, 45.0, 65.0, 65.7, 56.3, 37.7, 49.5, 66.7, 60.7, 6.3, 1.3, 2.7, 10.3, 6.3),
    "RecHacker": (63.0, 59.7, 47.0, 64.3, 68.0, 55.0, 49.3, 46.1, 68.7, 66.3, 7.0, 3.0, 3.3, 9.3, 7.7),
    "Agent4Rec": (28.3, 45.6, 28.0, 34.0, 46.3, 9.3, 37.3, 11.1, 41.3, 42.7, 7.6, 2.7, 0.7, 10.0, 6.0),
    "MARS": (68.4, 77.3, 68.0, 75.7, 75.7, 63.1, 63.7, 58.7, 74.1, 71.3, 31.0, 9.7, 8.1, 20.3, 13.3),
    "STAR": (79.0, 84.0, 78.0, 82.3, 86.0, 71.7, 76.3, 71.4, 87.3, 85.3, 43.0, 12.3, 11.3, 23.0, 17.7),
}
#: Table 2 (Goodreads): the five scenarios, and their average as printed.
_TABLE2 = {
    "MARS": (63.1, 63.7, 58.7, 74.1, 71.3, 66.2),
    "MARS w/o Tools": (59.3, 56.7, 51.5, 71.4, 69.0, 61.6),
    "MARS w/o Planner": (63.5, 60.3, 60.5, 72.1, 70.3, 65.3),
    "MARS w/o Reflector": (60.4, 57.3, 58.5, 68.7, 67.3, 62.4),
    "MARS-Planner": (70.0, 64.3, 59.6, 79.0, 74.3, 69.4),
    "STAR": (71.7, 76.3, 71.4, 87.3, 85.3, 78.4),
    "STAR w/o GRPO": (70.0, 72.7, 67.7, 85.7, 81.3, 75.5),
    "STAR w/o Tools": (66.0, 71.0, 60.6, 85.3, 81.3, 72.8),
    "STAR w/o Planner": (70.7, 73.7, 70.7, 86.1, 83.4, 76.9),
    "STAR w/o Reflector": (68.7, 71.3, 62.3, 79.7, 77.3, 71.9),
}
#: Tables 6 to 8: the best of k samples, mean over the scenarios. source -> (table, method -> by k of BEST_OF).
BEST_OF = (1, 2, 4, 8, 16)
BEST_OF_K: dict[str, tuple[str, dict[str, tuple[float, ...]]]] = {
    "amazon": (
        "table 6",
        {
            "STAR": (81.9, 83.4, 85.1, 86.2, 87.7),
            "STAR w/o GRPO": (78.2, 81.5, 83.3, 84.7, 86.3),
            "STAR w/o Tools": (75.1, 77.5, 78.9, 81.0, 82.6),
            "STAR w/o Planner": (79.9, 80.6, 83.1, 84.7, 85.4),
            "STAR w/o Reflector": (76.3, 78.7, 80.7, 82.5, 85.3),
        },
    ),
    "goodreads": (
        "table 7",
        {
            "STAR": (78.4, 79.2, 80.4, 81.9, 83.5),
            "STAR w/o GRPO": (75.5, 77.6, 79.1, 81.0, 82.7),
            "STAR w/o Tools": (72.8, 73.2, 74.9, 76.4, 78.4),
            "STAR w/o Planner": (76.9, 78.5, 79.7, 81.5, 83.0),
            "STAR w/o Reflector": (71.9, 73.1, 74.8, 77.7, 80.5),
        },
    ),
    "yelp": (
        "table 8",
        {
            "STAR": (21.5, 22.3, 22.7, 23.1, 23.8),
            "STAR w/o GRPO": (20.1, 21.0, 21.7, 22.7, 23.0),
            "STAR w/o Tools": (18.9, 19.3, 19.7, 20.1, 22.1),
            "STAR w/o Planner": (20.9, 21.3, 21.7, 22.1, 22.7),
            "STAR w/o Reflector": (17.5, 17.7, 18.2, 19.6, 21.8),
        },
    ),
}
#: Name of MARS where rules take the place of its language model.
RULES = "MARS (rules)"


def row_of(name: str) -> str | None:
    """Return the row of table 2 that a row of ours belongs to; ``None`` if the paper has none."""
    known = name.replace(RULES, "MARS", 1) if name.startswith(RULES) else name
    return known if known in TABLE2_AVERAGE else None


#: Figure 4 and section 5: seconds of one request.
LATENCY = {"MARS": 461.0, "STAR": 89.0}
#: Section 5, figure 5 (Goodreads): parameters of the student -> HR_avg. The sizes between are drawn, not printed; that
#: of 8 B is table 2's.
SCALING = {1.7e9: 70.1, 8e9: 78.4, 32e9: 84.5}

#: NDCG of STARec in percent: 1,000 test users, the last positive item among 19 random ones. Taken from public notes on
#: the paper, not from its text; None where they give no figure. Source of our tasks -> method -> NDCG@1, NDCG@10.
STAREC = "arXiv 2508.18812"
STAREC_SETS = {"movielens": "MovieLens 1M", "amazon": "Amazon CDs"}
STAREC_NDCG: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "movielens": {
        "STARec, 7B": (55.4, 77.16),
        "STARec, 1.5B": (51.3, None),
        "STARec, 1.5B, without SFT": (26.1, None),
        "STARec, 1.5B, without reflection": (46.6, None),
        "SASRec, trained on all data": (57.5, None),
    },
    "amazon": {"STARec, 7B": (68.3, 82.63)},
}

#: Table 1: method -> sub-task -> HR_avg.
_CELLS = [(source, scenario) for source in SOURCES for scenario in SCENARIOS]
TABLE1: dict[str, dict[Cell, float]] = {
    name: dict(zip(_CELLS, values, strict=True)) for name, values in _TABLE1.items()
}
#: Table 2: variant -> scenario -> HR_avg on Goodreads, and variant -> the average.
TABLE2 = {name: dict(zip(SCENARIOS, values[:-1], strict=True)) for name, values in _TABLE2.items()}
TABLE2_AVERAGE = {name: values[-1] for name, values in _TABLE2.items()}
