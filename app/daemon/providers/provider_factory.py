"""From a name in PROVIDERS to the provider, built from the settings. What a provider needs is imported only for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app.daemon.providers.provider_interface import CredentialSource, WorkflowProviderInterface
from app.daemon.providers.shim_launcher import ColdLauncher, ShimLauncher, keep_hint_target
from app.errors import Rejected
from config import Settings, SettingsError

if TYPE_CHECKING:
    from app.daemon.providers.dag import PipelineRuns
    from app.daemon.providers.healthomics_aws import AwsAccess


def make_provider(
    name: str,
    settings: Settings,
    host: str,
    pipelines: PipelineRuns | None = None,
    credentials: CredentialSource | None = None,
) -> WorkflowProviderInterface:
    """`host`: the id of this daemon's host, for a provider whose runs stay on it. `pipelines`: for dag; `credentials`:
    the BV-BRC tokens that came with runs, for bvbrc.

    Raises SettingsError where there is no such provider, or a package that it needs is not installed.
    """
    if name.strip().lower() == "dag" and pipelines is not None:
        return _dag(settings, pipelines)
    if name.strip().lower() == "bvbrc" and credentials is not None:
        return _bvbrc(settings, credentials)
    make = MAKERS.get(name.strip().lower())
    if make is None:
        known = ", ".join(sorted([*MAKERS, "bvbrc", "dag"]))
        raise SettingsError(f"PROVIDERS: there is no provider {name!r}, only {known}.")
    try:
        return make(settings, host)
    except ModuleNotFoundError as error:
        raise SettingsError(f"PROVIDERS: {name} needs the package {error.name}, which is not installed.") from error


def _local(settings: Settings, host: str) -> WorkflowProviderInterface:
    from app.daemon.engines.cwltool import CwltoolEngine
    from app.daemon.engines.fetcher import FetchPolicy
    from app.daemon.providers.local import LocalProvider

    hint_file = settings.data_dir / "hint.json"
    listener = f"http://{settings.daemon_notification_host}:{settings.daemon_notification_port}/"
    keep_hint_target(hint_file, listener, settings.daemon_notification_secret)
    private_hosts = frozenset(host.lower() for host in settings.fetch_private_hosts)
    policy = FetchPolicy(private_hosts, tuple(Path(root) for root in settings.file_roots))
    engines = [CwltoolEngine(settings.data_dir / "engines", settings.local_container_runtime, policy)]
    return LocalProvider(
        settings.data_dir / "runs",
        engines,
        _launcher(settings, hint_file),
        host,
        max_active=settings.local_max_concurrent_runs,
        cancel_grace_seconds=settings.local_cancel_grace_seconds,
        keep_seconds=settings.keep_run_dirs_seconds,
    )


def _launcher(settings: Settings, hint_file: Path) -> ShimLauncher:
    from app.daemon.engines.cwltool import RUNNER
    from app.daemon.engines.environments import EngineEnvironments
    from app.daemon.providers.warm_launcher import WarmLauncher

    cold = ColdLauncher(sys.executable, hint_file)
    if not settings.local_warm_start:
        return cold
    warm = WarmLauncher(cold, settings.data_dir / "warm", hint_file, RUNNER)
    for environment in EngineEnvironments(settings.data_dir / "engines").installed("cwltool")[:1]:
        warm.prepare(environment.python)
    return warm


def _dag(settings: Settings, pipelines: PipelineRuns) -> WorkflowProviderInterface:
    from app.daemon.engines.fetcher import FetchPolicy, fetch_document
    from app.daemon.providers.dag import DagProvider

    policy = FetchPolicy(frozenset(host.lower() for host in settings.fetch_private_hosts))
    return DagProvider(pipelines, lambda url: fetch_document(url, policy), settings.dag_max_parallel_steps)


def _fake(settings: Settings, host: str) -> WorkflowProviderInterface:
    from app.daemon.providers.fake import FakeProvider

    return FakeProvider(settings.fake_provider_url, timeout_seconds=settings.fake_provider_timeout_seconds)


def _fake_two_phase(settings: Settings, host: str) -> WorkflowProviderInterface:
    from app.daemon.providers.fake import TwoPhaseFakeProvider

    return TwoPhaseFakeProvider(
        settings.fake_provider_url,
        timeout_seconds=settings.fake_provider_timeout_seconds,
        visibility_grace_seconds=settings.fake_provider_visibility_seconds,
    )


def _bvbrc(settings: Settings, credentials: CredentialSource) -> WorkflowProviderInterface:
    from app.daemon.providers.bvbrc import BvbrcAccess, BvbrcOptions, BvbrcProvider

    access = BvbrcAccess(
        settings.bvbrc_service_url,
        settings.bvbrc_workspace_url,
        settings.bvbrc_timeout_seconds,
        settings.bvbrc_preflight_seconds,
    )
    options = BvbrcOptions(
        grace_seconds=settings.bvbrc_grace_seconds,
        calls_per_second=settings.bvbrc_calls_per_second,
        concurrent_submits=settings.bvbrc_concurrent_submits,
        max_active=settings.bvbrc_max_active_runs,
    )
    try:
        return BvbrcProvider(access, options, credentials)
    except ValueError as error:
        raise SettingsError(f"BVBRC_SERVICE_URL, BVBRC_WORKSPACE_URL: {error}") from None


def _sevenbridges(settings: Settings, host: str) -> WorkflowProviderInterface:
    from app.daemon.engines.fetcher import FetchPolicy, fetch_document
    from app.daemon.providers.sevenbridges import SevenBridgesOptions, SevenBridgesProvider
    from app.daemon.providers.sevenbridges_api import SevenBridgesAccess

    if not settings.sevenbridges_api_token.get_secret_value():
        raise SettingsError("SEVENBRIDGES_API_TOKEN: PROVIDERS names sevenbridges, which needs a token.")
    try:
        access = SevenBridgesAccess(
            settings.sevenbridges_api_endpoint,
            settings.sevenbridges_api_token.get_secret_value(),
            settings.sevenbridges_timeout_seconds,
        )
    except ValueError as error:
        raise SettingsError(f"SEVENBRIDGES_API_ENDPOINT: {error}") from None
    options = SevenBridgesOptions(
        project=settings.sevenbridges_project,
        volumes=settings.sevenbridges_volumes,
        calls_per_second=settings.sevenbridges_calls_per_second,
        max_active=settings.sevenbridges_max_active_runs,
        max_output_bytes=settings.sevenbridges_max_output_bytes,
        max_output_files=settings.sevenbridges_max_output_files,
    )
    policy = FetchPolicy(frozenset(host.lower() for host in settings.fetch_private_hosts))
    return SevenBridgesProvider(access, options, lambda url: fetch_document(url, policy))


def _healthomics(settings: Settings, host: str) -> WorkflowProviderInterface:
    from app.daemon.engines.fetcher import FetchPolicy
    from app.daemon.providers.healthomics import HealthOmicsProvider, HealthOmicsSettings

    if not settings.healthomics_role_arn:
        raise SettingsError("HEALTHOMICS_ROLE_ARN: PROVIDERS names healthomics, which needs the role that runs take.")
    rules = HealthOmicsSettings(
        role_arn=settings.healthomics_role_arn,
        output_uri=_s3_uri(settings.healthomics_output_bucket),
        other_role_arns=settings.healthomics_other_role_arns,
        run_defaults=settings.healthomics_run_defaults,
        starts_per_second=settings.healthomics_starts_per_second,
        reads_per_second=settings.healthomics_reads_per_second,
        visibility_seconds=settings.healthomics_visibility_seconds,
        max_active=settings.healthomics_max_active_runs,
        is_told_of_changes=bool(settings.healthomics_event_queue_url),
    )
    policy = FetchPolicy(frozenset(host.lower() for host in settings.fetch_private_hosts), total_seconds=60.0)
    try:
        return HealthOmicsProvider(aws_access(settings), rules, policy)
    except Rejected as error:
        raise SettingsError(f"HEALTHOMICS_RUN_DEFAULTS or HEALTHOMICS_OUTPUT_BUCKET: {error}") from None


def aws_access(settings: Settings) -> AwsAccess:
    """How this service reaches AWS."""
    from app.daemon.providers.healthomics_aws import AwsAccess

    return AwsAccess(
        settings.aws_region,
        settings.aws_access_key_id,
        settings.aws_secret_access_key.get_secret_value(),
        settings.aws_session_token.get_secret_value(),
        healthomics_endpoint=settings.healthomics_endpoint,
        endpoint=settings.healthomics_aws_endpoint,
        timeout_seconds=settings.healthomics_timeout_seconds,
    )


def _s3_uri(bucket: str) -> str:
    """A bucket may be given by its name alone."""
    return f"s3://{bucket}" if bucket and "://" not in bucket else bucket


MAKERS: dict[str, Callable[[Settings, str], WorkflowProviderInterface]] = {
    "fake": _fake,
    "fake-two-phase": _fake_two_phase,
    "healthomics": _healthomics,
    "local": _local,
    "sevenbridges": _sevenbridges,
}
"""Every provider that needs settings only; settings name them so."""
