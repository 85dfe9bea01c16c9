"""Collaborative Signal Translation: neighbours put into words, and the sealed store the tools answer from."""

from star_rl.evidence.model import Catalogue, Category, Neighbour, Words
from star_rl.evidence.store import EvidenceStore, StoreAnswer
from star_rl.evidence.template import Template, clean
from star_rl.evidence.writer import EvidenceWriter

__all__ = [
    "Catalogue",
    "Category",
    "EvidenceStore",
    "EvidenceWriter",
    "Neighbour",
    "StoreAnswer",
    "Template",
    "Words",
    "clean",
]
