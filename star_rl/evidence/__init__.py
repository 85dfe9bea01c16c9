"""Collaborative Signal Translation: neighbours put into words, and the sealed store the tools answer from."""

from star_rl.evidence.model import Catalogue, Category, Evidence, Neighbour, Words
from star_rl.evidence.store import EvidenceStore
from star_rl.evidence.template import Template
from star_rl.evidence.words import approximate_tokens, clean, in_words
from star_rl.evidence.writer import EvidenceWriter

__all__ = [
    "Catalogue",
    "Category",
    "Evidence",
    "EvidenceStore",
    "EvidenceWriter",
    "Neighbour",
    "Template",
    "Words",
    "approximate_tokens",
    "clean",
    "in_words",
]
