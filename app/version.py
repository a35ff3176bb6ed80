"""The version of this service, as service-info, the daemons table and the CLI tell it; pyproject.toml says the same."""

VERSION = "0.1.0"
