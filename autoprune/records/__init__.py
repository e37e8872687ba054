"""Candidates on disk: atomic, hashed directories that are the source of truth of a run, and the run's lock."""

from autoprune.records.lock import Owner, RunLock, owner_of, read_owner
from autoprune.records.record import CONTROL, CandidateRecord, Fidelity, Report, State, candidate_id, record_schema
from autoprune.records.remote import RemoteStore
from autoprune.records.store import PENDING, RecordStore

__all__ = [
    "CONTROL",
    "PENDING",
    "CandidateRecord",
    "Fidelity",
    "Owner",
    "RecordStore",
    "RemoteStore",
    "Report",
    "RunLock",
    "State",
    "candidate_id",
    "owner_of",
    "read_owner",
    "record_schema",
]
