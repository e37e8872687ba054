"""YAML -> RunConfig: the hardened reader, the schema, overrides from the environment and the command line."""

from autoprune.config.difference import changes_since, compare_configs
from autoprune.config.load import LoadedConfig, config_digest, dump_config, effective_config, load_config
from autoprune.config.model import RunConfig
from autoprune.config.reader import Document, parse_yaml, read_yaml
from autoprune.config.validation import validate

__all__ = [
    "Document",
    "LoadedConfig",
    "RunConfig",
    "changes_since",
    "compare_configs",
    "config_digest",
    "dump_config",
    "effective_config",
    "load_config",
    "parse_yaml",
    "read_yaml",
    "validate",
]
