"""Settings: typed, from the environment and `.env`, every problem reported at once. Imports nothing of `app`.

Nothing else reads the environment. `.env.example` names every setting; a test holds it against this file.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

Words = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list in the environment."""


class SettingsError(Exception):
    """The settings cannot be used; the message lists every problem, one a line."""


class Settings(BaseSettings):
    """Everything that can be configured. Times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    # Where things are
    host: str = "127.0.0.1"
    port: int = Field(5000, ge=0, le=65535)
    workers: int = Field(default_factory=lambda: max(2, min(4, os.cpu_count() or 2)), ge=1, le=64)
    data_dir: Path = Path("var")
    artifacts_dir: Path | None = None
    database_uri: str = ""
    secret_key: str = ""
    public_url: str = ""
    trusted_proxies: int = Field(0, ge=0, le=10)
    allowed_hosts: Words = ()
    allowed_origins: Words = ()
    wes_api_url: str = "http://localhost:5000/ga4gh/wes/v1"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    # Service-info
    service_id: str = "org.example.wes"
    service_name: str = "Workflow Execution Service"
    organization_name: str = "Example organization"
    organization_url: str = "https://example.org"
    contact_info_url: str = "mailto:admin@example.org"
    service_environment: str = "prod"
    service_created_at: str = "2026-11-20T00:00:00Z"

    # Requests
    max_request_bytes: int = Field(20 * 1024**3, ge=1024)
    max_field_bytes: int = Field(50 * 1024**2, ge=1024)
    max_attachments: int = Field(10_000, ge=1)
    default_page_size: int = Field(50, ge=1)
    max_page_size: int = Field(1000, ge=1)
    max_waiters: int = Field(16, ge=0)

    # Routing
    default_wes_provider: str = Field(
        "local", validation_alias=AliasChoices("DEFAULT_WES_PROVIDER", "WORKFLOW_EXECUTOR")
    )
    providers: Words = ("local",)
    file_roots: Words = ()
    fetch_private_hosts: Words = ()

    # Daemon
    daemon_poll_interval: float = Field(
        10, gt=0, validation_alias=AliasChoices("DAEMON_POLL_INTERVAL", "WORKFLOW_POLL_INTERVAL")
    )
    daemon_status_check_interval: float = Field(300, gt=0)
    daemon_max_concurrent_workflows: int = Field(10, ge=1, le=256)
    daemon_notification_host: str = "127.0.0.1"
    daemon_notification_port: int = Field(5001, ge=0, le=65535)
    daemon_notification_secret: str = ""
    lease_seconds: float = Field(60, ge=1)
    give_up_after: int = Field(20, ge=1)
    provider_lost_looks: int = Field(5, ge=1)
    provider_lost_seconds: float = Field(3600, ge=0)
    host_lost_after: float = Field(86400, ge=1)
    max_log_bytes: int = Field(1024**3, ge=1024)
    keep_run_dirs_seconds: float = Field(86400, ge=0)

    # Local engines
    local_max_concurrent_runs: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    local_cancel_grace_seconds: float = Field(5, ge=0, le=3600)
    local_container_runtime: Literal["auto", "none", "docker", "podman", "singularity", "apptainer"] = "auto"

    # Seven Bridges
    sevenbridges_api_token: SecretStr = SecretStr("")
    sevenbridges_api_endpoint: str = "https://api.sbgenomics.com/v2"
    sevenbridges_project: str = Field("", pattern=r"^([\w-][\w.-]*/[\w-][\w.-]*)?$")
    sevenbridges_volumes: Words = ()
    sevenbridges_timeout_seconds: float = Field(60, ge=1, le=600)
    sevenbridges_calls_per_second: float = Field(2.5, gt=0, le=100)
    sevenbridges_max_active_runs: int = Field(10_000, ge=1)
    sevenbridges_max_output_bytes: int = Field(1024**3, ge=0)
    sevenbridges_max_output_files: int = Field(500, ge=0)

    # AWS. Without keys, boto3 looks for credentials in its own places.
    aws_region: str = Field(
        "us-east-1", pattern=r"^[a-z0-9-]+$", validation_alias=AliasChoices("AWS_REGION", "HEALTHOMICS_REGION")
    )
    aws_access_key_id: str = ""
    aws_secret_access_key: SecretStr = SecretStr("")
    aws_session_token: SecretStr = SecretStr("")

    # AWS HealthOmics
    healthomics_role_arn: str = Field("", pattern=r"^(arn:aws[\w-]*:iam::\d{12}:role/.+)?$")
    healthomics_other_role_arns: Words = ()
    healthomics_output_bucket: str = ""
    healthomics_run_defaults: dict[str, str] = {"storageType": "DYNAMIC"}
    healthomics_starts_per_second: float = Field(1, gt=0, le=100)
    healthomics_reads_per_second: float = Field(5, gt=0, le=100)
    healthomics_timeout_seconds: float = Field(30, ge=1, le=600)
    healthomics_visibility_seconds: float = Field(60, ge=0)
    healthomics_max_active_runs: int | None = Field(None, ge=1)
    healthomics_event_queue_url: str = Field("", pattern=r"^(https?://.+)?$")
    healthomics_endpoint: str = Field("", pattern=r"^(https?://.+)?$")
    healthomics_aws_endpoint: str = Field("", pattern=r"^(https?://.+)?$")

    # The fake cloud, scripts/fake_provider
    fake_provider_url: str = "http://127.0.0.1:5002"
    fake_provider_timeout_seconds: float = Field(10, gt=0, le=600)
    fake_provider_visibility_seconds: float = Field(5, ge=0)

    @field_validator(
        "allowed_hosts",
        "allowed_origins",
        "file_roots",
        "fetch_private_hosts",
        "providers",
        "sevenbridges_volumes",
        "healthomics_other_role_arns",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("default_wes_provider", mode="after")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.strip().lower()

    @field_validator("data_dir", "artifacts_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @model_validator(mode="after")
    def _loopback_without_authentication(self) -> Settings:
        if self.host not in LOOPBACK_HOSTS:
            raise ValueError(
                f"HOST={self.host} would offer this service to the network without authentication. "
                "Set HOST=127.0.0.1 and put an authenticating proxy in front of it."
            )
        return self

    @model_validator(mode="after")
    def _both_keys(self) -> Settings:
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key.get_secret_value()):
            raise ValueError(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both, or neither for boto3's chain."
            )
        return self

    @model_validator(mode="after")
    def _secret_off_loopback(self) -> Settings:
        if self.daemon_notification_host not in LOOPBACK_HOSTS and not self.daemon_notification_secret:
            raise ValueError(
                f"DAEMON_NOTIFICATION_HOST={self.daemon_notification_host} is not loopback: "
                "set DAEMON_NOTIFICATION_SECRET to the same long random text for the API and the daemon."
            )
        return self

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment and `.env`; raises SettingsError with every problem, not only the first."""
        problems = _contradicting_aliases()
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            problems += [_words(problem) for problem in error.errors()]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    @property
    def database_url(self) -> str:
        """DATABASE_URI, or the SQLite file in DATA_DIR."""
        return self.database_uri or f"sqlite:///{self.data_dir / 'wes.sqlite'}"

    @property
    def artifacts_root(self) -> Path:
        """ARTIFACTS_DIR, or `artifacts` in DATA_DIR: what the API and all daemons of a database must share."""
        return self.artifacts_dir or self.data_dir / "artifacts"

    def signing_key(self) -> str:
        """SECRET_KEY, or one made once in DATA_DIR and readable by its owner only."""
        return self.secret_key or _kept_secret(self.data_dir / "secret_key")


def _contradicting_aliases() -> list[str]:
    """Both names of an alias set, and differently."""
    problems = []
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            given = {
                str(name): os.environ[str(name)] for name in field.validation_alias.choices if os.environ.get(str(name))
            }
            if len(set(given.values())) > 1:
                problems.append("Two names for one setting differ: " + ", ".join(f"{k}={v}" for k, v in given.items()))
    return problems


def _words(problem: Any) -> str:
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return f"{name}: {problem['msg']}" if name else str(problem["msg"]).removeprefix("Value error, ")


def _kept_secret(path: Path) -> str:
    """Written whole under another name first, so that a second process never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    return path.read_text()
