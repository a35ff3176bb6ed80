"""Which provider and engine a request goes to, and what service-info says is offered. Pure.

`Offers` is what living daemons wrote down of themselves; nothing here asks a provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.attachment_names import attachment_of
from app.errors import InvalidRequest
from app.locations import (
    HEALTHOMICS_ID,
    INLINE,
    check_location,
    provider_of,
    refuse_credentials,
    refuse_credentials_in,
    sevenbridges_app,
    type_of,
)
from app.run_requests import RunRequest

TYPE_ALIASES = {
    "cwl": "CWL",
    "wdl": "WDL",
    "nfl": "NFL",
    "nextflow": "NFL",
    "smk": "SMK",
    "snakemake": "SMK",
    "dag": "DAG",
    "bvbrc-dag": "DAG",
    "bvbrc": "BVBRC",
}
NEWEST_KNOWN = {"CWL": "v1.2", "WDL": "1.0", "NFL": "DSL2", "SMK": "1.0", "DAG": "1.0", "BVBRC": "1.0"}
"""What a missing version means where nobody has said yet what is installed."""
PROVIDER_ALIASES = {"aws-omics": "healthomics", "omics": "healthomics", "seven-bridges": "sevenbridges"}
"""Other names under which clients ask for a provider as if it were an engine."""
_DOCUMENT_PROVIDERS = frozenset({"local", "dag"})
"""Providers without workflows of their own: they need the document."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine at one version, with the versions of each workflow type that it runs."""

    name: str
    version: str
    workflow_types: Mapping[str, tuple[str, ...]]
    parameters: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderOffer:
    """What a provider can run now. `problem`: why it offers less than it should."""

    engines: tuple[Engine, ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


Offers = Mapping[str, ProviderOffer]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about routing."""

    default_provider: str
    file_roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `engine` is None where the provider chooses; names and versions as the provider has them,
    but the type's version as the client spelled it."""

    provider: str
    workflow_type: str
    workflow_type_version: str
    engine: str | None
    engine_version: str | None


def read_offers(documents: Iterable[Mapping[str, Any]]) -> dict[str, ProviderOffer]:
    """What several daemons wrote down, as one: the engines of all, the capabilities of the first."""
    offers: dict[str, ProviderOffer] = {}
    for document in documents:
        for name, said in document.items():
            new, old = _read_offer(said), offers.get(name, ProviderOffer())
            engines = {(engine.name, engine.version): engine for engine in (*old.engines, *new.engines)}
            offers[name] = ProviderOffer(
                tuple(engines.values()), old.capabilities or new.capabilities, old.problem or new.problem
            )
    return offers


def route(request: RunRequest, offers: Offers, rules: Rules) -> Route:
    """The first rule that applies decides. Raises InvalidRequest for a contradiction and for what is not offered."""
    refuse_credentials(request.workflow_url, "workflow_url")
    refuse_credentials_in(request.workflow_params)
    workflow_type = _type(request, offers)
    provider = _provider(request, workflow_type, offers, rules)
    offer = offers.get(provider, ProviderOffer())
    if provider != "dag" or request.workflow_url != INLINE:
        check_location(
            request.workflow_url,
            request.attachments,
            rules.file_roots,
            offer.capabilities.get("filesystem_protocols") or (),
            takes_ids=_takes_ids(request, provider),
        )
    if not offer.engines:
        return _route_unseen(request, provider, workflow_type, offer)
    fitting = _engines_of_type(offer, provider, workflow_type, offers)
    fitting = _engines_named(fitting, offer, provider, request)
    version = _version(request.workflow_type_version, workflow_type, fitting)
    if request.workflow_engine is None:
        return Route(provider, workflow_type, version, None, None)
    return Route(provider, workflow_type, version, fitting[0].name, _engine_version(request, fitting))


def canonical_type(word: str) -> str:
    """The name under which a workflow type is stored."""
    return TYPE_ALIASES.get(word.casefold(), word)


def workflow_type_versions(offers: Offers) -> dict[str, list[str]]:
    """Workflow type -> the versions that some engine runs."""
    table: dict[str, list[str]] = {}
    for engine in _engines(offers):
        for workflow_type, versions in engine.workflow_types.items():
            _extend(table.setdefault(workflow_type, []), versions)
    return table


def workflow_engine_versions(offers: Offers) -> dict[str, list[str]]:
    """Engine -> its versions."""
    table: dict[str, list[str]] = {}
    for engine in _engines(offers):
        _extend(table.setdefault(engine.name, []), (engine.version,))
    return table


def default_parameters(offers: Offers) -> list[tuple[str, str, str]]:
    """(name, type, default) of every engine parameter, once."""
    return list(dict.fromkeys(parameter for engine in _engines(offers) for parameter in engine.parameters))


def filesystem_protocols(offers: Offers) -> list[str]:
    """The protocols that inputs may be named with, of all providers."""
    said = (offer.capabilities.get("filesystem_protocols") or () for offer in offers.values())
    return sorted({protocol for protocols in said for protocol in protocols})


def _read_offer(said: Mapping[str, Any]) -> ProviderOffer:
    engines = tuple(
        Engine(
            one["engine"],
            one["engine_version"],
            {workflow_type: tuple(versions) for workflow_type, versions in one["workflow_types"].items()},
            tuple((name, kind, default) for name, kind, default in one.get("parameters") or ()),
        )
        for one in said.get("engines") or ()
    )
    return ProviderOffer(engines, said.get("capabilities") or {}, said.get("problem"))


def _type(request: RunRequest, offers: Offers) -> str:
    if request.workflow_type is None:
        if found := type_of(request.workflow_url):
            return found
        raise InvalidRequest("workflow_type is missing, and the suffix of workflow_url does not tell it.")
    asked = request.workflow_type.casefold()
    if found := TYPE_ALIASES.get(asked):
        return found
    known = {word.casefold(): word for word in (*workflow_type_versions(offers), *NEWEST_KNOWN)}
    if found := known.get(asked):
        return found
    raise _unsupported("workflow_type", request.workflow_type, workflow_type_versions(offers) or NEWEST_KNOWN)


def _provider(request: RunRequest, workflow_type: str, offers: Offers, rules: Rules) -> str:
    claims = [claim for claim in _claims(request, workflow_type) if claim[0]]
    of_engine = _providers_of_engine(request.workflow_engine, offers)
    default = rules.default_provider if not of_engine or rules.default_provider in of_engine else of_engine[0]
    chosen, reason = claims[0] if claims else (default, "DEFAULT_WES_PROVIDER")
    if of_engine and chosen not in of_engine:
        claims.append((of_engine[0], f"workflow_engine {request.workflow_engine!r}"))
    for other, other_reason in claims:
        if other != chosen:
            raise InvalidRequest(f"{reason} means provider {chosen!r}, but {other_reason} means {other!r}.")
    if offers and chosen not in offers:
        raise _unsupported("provider", chosen, offers)
    return chosen


def _claims(request: RunRequest, workflow_type: str) -> Iterator[tuple[str, str]]:
    """(provider or "", what asks for it), the strongest first."""
    yield provider_of(request.workflow_url) or "", f"workflow_url {request.workflow_url!r}"
    yield (
        _provider_name(request.workflow_engine_parameters.get("provider") or ""),
        "workflow_engine_parameters.provider",
    )
    yield "dag" if workflow_type == "DAG" else "", f"workflow_type {workflow_type}"


def _provider_name(word: str) -> str:
    return PROVIDER_ALIASES.get(word.casefold(), word.casefold())


def _providers_of_engine(engine: str | None, offers: Offers) -> list[str]:
    """A provider's own name, or every provider that offers an engine of this name."""
    if engine is None:
        return []
    provider = _provider_name(engine)
    if provider in offers or provider in PROVIDER_ALIASES.values():
        return [provider]
    return sorted(name for name, offer in offers.items() if _is_named(engine, offer.engines))


def _takes_ids(request: RunRequest, provider: str) -> bool:
    if provider == "healthomics":
        has_id = HEALTHOMICS_ID.fullmatch(request.workflow_url) or "workflow_id" in request.workflow_params
        return bool(has_id)
    if provider == "sevenbridges":
        is_attached = attachment_of(request.workflow_url, request.attachments) is not None
        return sevenbridges_app(request.workflow_url) is not None and not is_attached
    return provider not in _DOCUMENT_PROVIDERS


def _route_unseen(request: RunRequest, provider: str, workflow_type: str, offer: ProviderOffer) -> Route:
    """Nobody has said what is installed there: what WES knows is accepted, and waits QUEUED."""
    if offer.capabilities and not offer.problem:
        raise InvalidRequest(f"Provider {provider!r} has no workflow engine installed.")
    _check_engine_is_named(request)
    version = request.workflow_type_version or NEWEST_KNOWN.get(workflow_type, "1.0")
    engine = request.workflow_engine
    is_provider = engine is not None and _provider_name(engine) == provider
    return Route(provider, workflow_type, version, None if is_provider else engine, request.workflow_engine_version)


def _engines_of_type(offer: ProviderOffer, provider: str, workflow_type: str, offers: Offers) -> list[Engine]:
    if fitting := [engine for engine in offer.engines if workflow_type in engine.workflow_types]:
        return fitting
    elsewhere = [
        name for name, other in offers.items() if any(workflow_type in e.workflow_types for e in other.engines)
    ]
    hint = f" Provider {elsewhere[0]!r} runs it." if elsewhere else ""
    words = _unsupported("workflow_type", workflow_type, workflow_type_versions({provider: offer}))
    raise InvalidRequest(f"{words} (provider {provider!r}){hint}")


def _engines_named(fitting: list[Engine], offer: ProviderOffer, provider: str, request: RunRequest) -> list[Engine]:
    """Those of the asked name; all where the name is the provider's."""
    _check_engine_is_named(request)
    name = request.workflow_engine
    if name is None or (_provider_name(name) == provider and not _is_named(name, offer.engines)):
        return fitting
    if named := [engine for engine in fitting if _is_named(name, [engine])]:
        return named
    raise _unsupported("workflow_engine", name, workflow_engine_versions({provider: ProviderOffer(tuple(fitting))}))


def _check_engine_is_named(request: RunRequest) -> None:
    if request.workflow_engine_version and not request.workflow_engine:
        raise InvalidRequest("workflow_engine_version needs a workflow_engine.")


def _version(asked: str | None, workflow_type: str, engines: list[Engine]) -> str:
    """The version as it was asked for, if some engine runs it; the newest one where none was named."""
    offered = [version for engine in engines for version in engine.workflow_types[workflow_type]]
    if asked is None:
        return offered[-1] if offered else NEWEST_KNOWN.get(workflow_type, "1.0")
    if offered and _plain(asked) not in map(_plain, offered):
        raise _unsupported("workflow_type_version", asked, dict.fromkeys(offered), of=workflow_type)
    return asked


def _engine_version(request: RunRequest, engines: list[Engine]) -> str | None:
    asked = request.workflow_engine_version
    if asked is None:
        return None
    offered = {_plain(engine.version): engine.version for engine in engines}
    if _plain(asked) not in offered:
        raise _unsupported("workflow_engine_version", asked, offered.values(), of=engines[0].name)
    return offered[_plain(asked)]


def _plain(version: str) -> str:
    """`v1.0` and `1.0` are the same."""
    return version.casefold().removeprefix("v")


def _is_named(name: str, engines: Iterable[Engine]) -> bool:
    return any(engine.name.casefold() == name.casefold() for engine in engines)


def _engines(offers: Offers) -> Iterator[Engine]:
    for offer in offers.values():
        yield from offer.engines


def _extend(kept: list[str], more: Iterable[str]) -> None:
    kept.extend(word for word in more if word not in kept)


def _unsupported(field_name: str, value: str, supported: Iterable[str], of: str = "") -> InvalidRequest:
    what = f" of {of}" if of else ""
    return InvalidRequest(
        f"{field_name} {value!r}{what} is not supported. Supported: {', '.join(supported) or 'none'}."
    )
