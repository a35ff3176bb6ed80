"""Settings: typed, from the environment and `.env`, every problem reported at once. Imports nothing of `app`.

Nothing else reads the environment. `.env.example` names every setting; a test holds it against this file.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

KEY_BYTES = 32
"""Of a key in CREDENTIALS_KEYS: what Fernet takes."""
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
    artifacts_s3_uri: str = ""
    artifacts_s3_endpoint: str = Field("", pattern=r"^(https?://.+)?$")
    artifacts_redirect: bool = False
    database_uri: str = ""
    secret_key: str = ""
    credentials_keys: SecretStr = SecretStr("")
    public_url: str = ""
    trusted_proxies: int = Field(0, ge=0, le=10)
    allowed_hosts: Words = ()
    allowed_origins: Words = ()
    wes_api_url: str = "http://localhost:5000/ga4gh/wes/v1"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"
    executor_log_file: Path | None = None

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
    max_uploads: int = Field(32, ge=1, le=48)

    # Routing
    default_wes_provider: str = Field(
        "local", validation_alias=AliasChoices("DEFAULT_WES_PROVIDER", "WORKFLOW_EXECUTOR")
    )
    providers: Words = ("local", "dag")
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
    daemon_metrics_token: SecretStr = SecretStr("")
    lease_seconds: float = Field(60, ge=1)
    give_up_after: int = Field(20, ge=1)
    provider_lost_looks: int = Field(5, ge=1)
    provider_lost_seconds: float = Field(3600, ge=0)
    host_lost_after: float = Field(86400, ge=1)
    max_log_bytes: int = Field(1024**3, ge=1024)
    keep_run_dirs_seconds: float = Field(86400, ge=0)

    # Pipelines
    dag_max_parallel_steps: int = Field(2, ge=1, le=1000)

    # Local engines
    local_max_concurrent_runs: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    local_cancel_grace_seconds: float = Field(5, ge=0, le=3600)
    local_warm_start: bool = True
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
    healthomics_run_defaults: Annotated[dict[str, str], NoDecode] = {"storageType": "DYNAMIC"}
    healthomics_starts_per_second: float = Field(1, gt=0, le=100)
    healthomics_reads_per_second: float = Field(5, gt=0, le=100)
    healthomics_timeout_seconds: float = Field(30, ge=1, le=600)
    healthomics_visibility_seconds: float = Field(60, ge=0)
    healthomics_max_active_runs: int | None = Field(None, ge=1)
    healthomics_event_queue_url: str = Field("", pattern=r"^(https?://.+)?$")
    healthomics_endpoint: str = Field("", pattern=r"^(https?://.+)?$")
    healthomics_aws_endpoint: str = Field("", pattern=r"^(https?://.+)?$")

    # BV-BRC. Users send their own tokens with their runs.
    bvbrc_service_url: str = Field("https://p3.theseed.org/services/app_service", pattern=r"^https?://[^/]+")
    bvbrc_workspace_url: str = Field("https://p3.theseed.org/services/Workspace", pattern=r"^https?://[^/]+")
    bvbrc_timeout_seconds: float = Field(60, ge=1, le=600)
    bvbrc_preflight_seconds: float = Field(300, ge=1, le=3600)
    bvbrc_grace_seconds: float = Field(900, ge=0)
    bvbrc_calls_per_second: float = Field(5, gt=0, le=100)
    bvbrc_concurrent_submits: int = Field(4, ge=1, le=256)
    bvbrc_max_active_runs: int | None = Field(None, ge=1)

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

    @field_validator("healthomics_run_defaults", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"not a JSON object ({error})") from None

    @field_validator("default_wes_provider", mode="after")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.strip().lower()

    @field_validator("data_dir", "artifacts_dir", "executor_log_file", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("credentials_keys", mode="after")
    @classmethod
    def _whole_keys(cls, value: SecretStr) -> SecretStr:
        for key in _split_keys(value):
            try:
                size = len(base64.b64decode(key, altchars=b"-_", validate=True))
            except ValueError:
                size = 0
            if size != KEY_BYTES:
                raise ValueError("each key, separated by commas, is 32 random bytes in URL-safe base64")
        return value

    @field_validator("artifacts_s3_uri", mode="after")
    @classmethod
    def _bucket(cls, value: str) -> str:
        if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*'()-]+)*/?", value, re.ASCII):
            raise ValueError("must look like s3://bucket or s3://bucket/prefix")
        return value.rstrip("/")

    @field_validator("database_uri", mode="after")
    @classmethod
    def _database(cls, value: str) -> str:
        """A relative path means one file for all that start here: Flask-SQLAlchemy would look elsewhere."""
        scheme, _, path = value.partition(":///")
        if not scheme.startswith("sqlite"):
            if value and not re.match(r"postgresql(\+\w+)?://", value):
                raise ValueError("must begin with postgresql:// or sqlite:///")
            return value
        if not path or path.startswith((":memory:", "file:")):
            raise ValueError("must name a file: the API and the daemon are different processes")
        return f"{scheme}:///{Path(path).absolute()}"

    @model_validator(mode="wrap")
    @classmethod
    def _every_problem(cls, given: dict[str, Any], validate: ModelWrapValidatorHandler[Settings]) -> Settings:
        """The rules between settings are held against them also where one of them is wrong by itself."""
        problems: list[str] = []
        try:
            settings = validate(given)
        except ValidationError as error:
            problems = [_words(problem) for problem in error.errors()]
            wrong = {str(problem["loc"][0]).lower() for problem in error.errors()}
            settings = validate(_without(given, wrong))
        problems += settings._broken_rules()
        if problems:
            raise ValueError("\n".join(problems))
        return settings

    def _broken_rules(self) -> Iterator[str]:
        """What is wrong between settings each of which is right by itself."""
        if self.host not in LOOPBACK_HOSTS:
            yield (
                f"HOST={self.host} would offer this service to the network without authentication. "
                "Set HOST=127.0.0.1 and put an authenticating proxy in front of it."
            )
        if self.daemon_notification_host not in LOOPBACK_HOSTS and not self.daemon_notification_secret:
            yield (
                f"DAEMON_NOTIFICATION_HOST={self.daemon_notification_host} is not loopback: "
                "set DAEMON_NOTIFICATION_SECRET to the same long random text for the API and the daemon."
            )
        if self.artifacts_dir and self.artifacts_s3_uri:
            yield "ARTIFACTS_DIR and ARTIFACTS_S3_URI are both set: files are kept in one place only."
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key.get_secret_value()):
            yield "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both, or neither for boto3's chain."
        if self.default_page_size > self.max_page_size:
            yield f"DEFAULT_PAGE_SIZE={self.default_page_size} is more than MAX_PAGE_SIZE={self.max_page_size}."

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment and `.env`; raises SettingsError with every problem, not only the first."""
        problems = _contradicting_aliases(overrides.get("_env_file", cls.model_config.get("env_file")))
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
        return self.secret_key or _kept_secret(self.data_dir / "secret_key", lambda: secrets.token_hex(32))

    def credential_keys(self) -> tuple[str, ...]:
        """CREDENTIALS_KEYS, or one made once in DATA_DIR; the first seals what users send along, all of them open it.

        The API and the daemons need the same: with different DATA_DIRs, CREDENTIALS_KEYS has to be set.
        """
        kept = self.data_dir / "credentials_key"
        return _split_keys(self.credentials_keys) or (_kept_secret(kept, _new_key),)


def _contradicting_aliases(env_file: Any) -> list[str]:
    """Both names of an alias set, and differently, in the environment and in `env_file`, which it overrides."""
    said = [*(dotenv_values(env_file) if env_file else {}).items(), *os.environ.items()]
    set_to = {name.upper(): value for name, value in said if value}
    problems = []
    for field in Settings.model_fields.values():
        given = {name: set_to[name] for name in _spellings(field) if name in set_to}
        if len({value.strip().lower() for value in given.values()}) > 1:
            problems.append("Two names for one setting differ: " + ", ".join(f"{k}={v}" for k, v in given.items()))
    return problems


def _spellings(field: FieldInfo) -> list[str]:
    """The names of a setting that has several."""
    alias = field.validation_alias
    return [str(name) for name in alias.choices] if isinstance(alias, AliasChoices) else []


def _without(given: dict[str, Any], wrong: set[str]) -> dict[str, Any]:
    """`given` without the settings of which one of these is a name."""
    for name, field in Settings.model_fields.items():
        names = {name, *(spelled.lower() for spelled in _spellings(field))}
        if names & wrong:
            given = {key: value for key, value in given.items() if key.lower() not in names}
    return given


def _words(problem: Any) -> str:
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return ": ".join([*([name] if name else []), str(problem["msg"]).removeprefix("Value error, ")])


def _split_keys(keys: SecretStr) -> tuple[str, ...]:
    return tuple(key.strip() for key in keys.get_secret_value().split(",") if key.strip())


def _new_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _kept_secret(path: Path, make: Callable[[], str]) -> str:
    """Written whole under another name first, so that a second process never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    return path.read_text()
