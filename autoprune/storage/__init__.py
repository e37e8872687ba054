"""Bytes on disk that are complete or absent, and noticed when altered."""

from autoprune.storage.atomic import (
    MANIFEST,
    free_bytes,
    is_temporary,
    read_regular,
    remove_stale,
    storage_errors,
    write_file,
)
from autoprune.storage.hashed import (
    FileEntry,
    Source,
    is_plain_name,
    parse_manifest,
    read_manifest,
    verify_directory,
    write_directory,
)
from autoprune.storage.jsonio import dump_json, parse_json

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Source",
    "dump_json",
    "free_bytes",
    "is_plain_name",
    "is_temporary",
    "parse_json",
    "parse_manifest",
    "read_manifest",
    "read_regular",
    "remove_stale",
    "storage_errors",
    "verify_directory",
    "write_directory",
    "write_file",
]
