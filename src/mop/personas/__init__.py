"""Clusters of records, or a file of the user, to personas."""

from mop.personas.ablations import random_personas, record_personas
from mop.personas.files import read_personas, save_personas
from mop.personas.keywords import keyword_personas
from mop.personas.llm import llm_personas

__all__ = ["keyword_personas", "llm_personas", "random_personas", "read_personas", "record_personas", "save_personas"]
