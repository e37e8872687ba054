"""Candidates on disk: atomic, hashed directories that are the source of truth of a run, and the run's lock."""

from autoprune.records.lock import Owner, RunLock, read_owner
from autoprune.records.record import CONTROL, CandidateRecord, Fidelity, Report, State, candidate_id, record_schema
from autoprune.records.store import RecordStore

__all__ = [
    "CONTROL",
    "CandidateRecord",
    "Fidelity",
    "Owner",
    "RecordStore",
    "Report",
    "RunLock",
    "State",
    "candidate_id",
    "read_owner",
    "record_schema",
]
