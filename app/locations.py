"""Where a workflow_url may point: an address, a provider's own id, an attachment, a file below a root. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from app.attachment_names import attachment_of
from app.errors import InvalidRequest

PROVIDER_SCHEMES = {"healthomics": "healthomics", "sevenbridges": "sevenbridges", "bvbrc": "bvbrc"}
"""Scheme of a workflow_url -> the provider that it means."""
INLINE = "inline:"
"""The workflow_url of a pipeline whose document is in workflow_params."""
FETCHED_SCHEMES = frozenset({"http", "https", "s3", "trs"})
BVBRC_APP = re.compile(r"bvbrc:[A-Za-z]\w{0,99}", re.ASCII | re.IGNORECASE)
RESERVED_PARAMS = frozenset({"outputUri", "workflow_id"})
"""workflow_params that say where a HealthOmics run goes. They are for this service, whichever provider it is."""
HEALTHOMICS_ID = re.compile(r"\d+|wf-[\w-]+", re.ASCII)
_SEVENBRIDGES_PREFIX = "sevenbridges:"
_SEVENBRIDGES_APP = re.compile(r"\w[\w.-]*/\w[\w.-]*/\w[\w.-]*(/\d+)?", re.ASCII)
_HEALTHOMICS_ARN = re.compile(r"arn:aws[a-z-]*:omics:")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PLATFORM_TYPES = {"sevenbridges": "CWL", "bvbrc": "BVBRC"}
_WITH_CREDENTIALS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:[/\\]{2}[^/\\?#]*@")
_SUFFIX_TYPES = {".cwl": "CWL", ".wdl": "WDL", ".nf": "NFL", ".smk": "SMK"}


def inputs_of(workflow_params: Mapping[str, Any]) -> dict[str, Any]:
    """What of them the workflow itself gets to see."""
    return {name: value for name, value in workflow_params.items() if name not in RESERVED_PARAMS}


def scheme_of(workflow_url: str) -> str:
    """Lower-case; "" where there is none."""
    found = _SCHEME.match(workflow_url)
    return found[1].lower() if found else ""


def provider_of(workflow_url: str) -> str | None:
    """The provider whose scheme or ARN this is."""
    if _HEALTHOMICS_ARN.match(workflow_url):
        return "healthomics"
    return PROVIDER_SCHEMES.get(scheme_of(workflow_url))


def type_of(workflow_url: str) -> str | None:
    """The workflow type that the suffix tells, or the platform."""
    if told := _PLATFORM_TYPES.get(scheme_of(workflow_url)):
        return told
    path = workflow_url.partition("#")[0].partition("?")[0]
    if posixpath.basename(path) == "Snakefile":
        return "SMK"
    return _SUFFIX_TYPES.get(posixpath.splitext(path)[1].lower())


def sevenbridges_app(workflow_url: str) -> str | None:
    """`owner/project/app[/revision]` with or without the scheme; None for anything else, also for a file's path."""
    has_scheme = scheme_of(workflow_url) == "sevenbridges"
    app_id = workflow_url[len(_SEVENBRIDGES_PREFIX) :] if has_scheme else workflow_url
    is_app = _SEVENBRIDGES_APP.fullmatch(app_id) and (has_scheme or type_of(workflow_url) is None)
    return app_id if is_app else None


def check_location(
    workflow_url: str, attachments: Collection[str], roots: Iterable[str], schemes: Collection[str], takes_ids: bool
) -> None:
    """Raises InvalidRequest where nothing can be found there.

    `schemes`: what the provider reads beyond ours. `takes_ids`: the provider has workflows of its own, so that
    `workflow_url` may be a bare id.
    """
    scheme = scheme_of(workflow_url)
    if scheme == "file" or workflow_url.startswith("/"):
        _check_below_roots(workflow_url, roots)
    elif scheme == "sevenbridges":
        _check_app(workflow_url)
    elif scheme == "bvbrc":
        _check_bvbrc_app(workflow_url)
    elif scheme and not provider_of(workflow_url):
        _check_scheme(workflow_url, scheme, FETCHED_SCHEMES | {word.lower() for word in schemes})
    elif not scheme and not takes_ids:
        _check_attached(workflow_url, attachments)


def refuse_credentials(address: str, field: str) -> None:
    """Raises InvalidRequest, without the address, where it holds a user name or a password."""
    if _WITH_CREDENTIALS.match(address):
        raise InvalidRequest(
            f"{field}: an address with a user name or a password in it is refused, as addresses are stored and shown. "
            "Attach the file, or use an address that needs neither; a platform's token goes into its own header."
        )


def refuse_credentials_in(workflow_params: Mapping[str, Any]) -> None:
    """As refuse_credentials, for every File and Directory in them, however deep."""
    values: list[Any] = [workflow_params]
    while values:
        value = values.pop()
        if isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            values += value.values()
            if value.get("class") in ("File", "Directory"):
                for name in ("location", "path"):
                    refuse_credentials(str(value.get(name)), f"workflow_params: a {value['class']}")


def _check_app(workflow_url: str) -> None:
    if sevenbridges_app(workflow_url) is None:
        raise InvalidRequest(f"workflow_url {workflow_url!r} is not sevenbridges:owner/project/app[/revision].")


def _check_bvbrc_app(workflow_url: str) -> None:
    if BVBRC_APP.fullmatch(workflow_url) is None:
        raise InvalidRequest(f"workflow_url {workflow_url!r} is not bvbrc:<app>, as in bvbrc:GenomeAssembly2.")


def _check_scheme(workflow_url: str, scheme: str, allowed: Collection[str]) -> None:
    if scheme not in allowed:
        raise InvalidRequest(f"workflow_url: {scheme!r} is not supported. Supported: {', '.join(sorted(allowed))}.")
    try:
        has_host = bool(urlsplit(workflow_url).hostname)
    except ValueError:
        has_host = False
    if not has_host:
        raise InvalidRequest("workflow_url is not an address that can be read.")


def _check_below_roots(workflow_url: str, roots: Iterable[str]) -> None:
    """By its words alone: whoever opens the file looks again, with symbolic links resolved."""
    path = _file_path(workflow_url)
    if path is None or not any(_is_below(path, root) for root in roots):
        raise InvalidRequest("workflow_url: files of this machine can be used below the configured FILE_ROOTS only.")


def _file_path(workflow_url: str) -> str | None:
    if workflow_url.startswith("/"):
        return workflow_url.partition("#")[0]
    try:
        parts = urlsplit(workflow_url)
    except ValueError:
        return None
    return unquote(parts.path) if parts.netloc in ("", "localhost") else None


def _is_below(path: str, root: str) -> bool:
    root = posixpath.normpath(root)
    return path.startswith("/") and ".." not in path.split("/") and posixpath.commonpath([path, root]) == root


def _check_attached(workflow_url: str, attachments: Collection[str]) -> None:
    if not attachments:
        raise InvalidRequest("Relative 'workflow_url' but missing 'workflow_attachment'")
    if attachment_of(workflow_url, attachments) is None:
        some = ", ".join(sorted(attachments)[:10])
        raise InvalidRequest(f"workflow_url {workflow_url!r} is none of the attachments ({some}).")
