"""Command line -> one call each: parsing, printing and exit codes, nothing else."""

from autoprune.cli.app import main

__all__ = ["main"]
