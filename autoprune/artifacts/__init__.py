"""Pruned model <-> directory: save, load, verify. Nothing here is unpickled."""

from autoprune.artifacts.card import CardFacts, render_card
from autoprune.artifacts.formats import FORMATS, Format, export_bytes
from autoprune.artifacts.loading import load
from autoprune.artifacts.saving import Member, save_member
from autoprune.artifacts.verification import Check, VerifyReport, verify, verify_with_model

__all__ = [
    "FORMATS",
    "CardFacts",
    "Check",
    "Format",
    "Member",
    "VerifyReport",
    "export_bytes",
    "load",
    "render_card",
    "save_member",
    "verify",
    "verify_with_model",
]
