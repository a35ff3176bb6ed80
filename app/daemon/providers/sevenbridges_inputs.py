"""workflow_params as the inputs of a Seven Bridges task: each checked against the type that its app declares. Pure.

A File or Directory is named by its id on the platform, by `sevenbridges://<id>`, by its path in the project, or by an
address that may be imported; here all of them stay names, for `sevenbridges_files` to turn into ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.daemon.providers.sevenbridges_http import one_line
from app.errors import Rejected

FILE_CLASSES = ("File", "Directory")
PRIMITIVES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "long": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "double": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
SCHEME = "sevenbridges://"
AT_HOME = "sbg:file"
"""Where a File of an earlier run's outputs is on the platform, wherever its copy is."""
ANY = "Any"


@dataclass(frozen=True, slots=True)
class Port:
    """An input of an app: its type as CWL writes it, without shorthands, and whether it may be left out."""

    type: Any
    is_optional: bool


class _Misfit(Exception):
    """Where, and what was expected there."""


def ports_of(raw: Mapping[str, Any]) -> dict[str, Port]:
    """The inputs that a CWL document declares, from either of its two notations."""
    declared = raw.get("inputs")
    listed: list[Any] = []
    if isinstance(declared, Mapping):
        listed = [{"id": name, **(one if _is_port(one) else {"type": one})} for name, one in declared.items()]
    elif isinstance(declared, list):
        listed = declared
    return {
        _short(one["id"]): _port(one) for one in listed if isinstance(one, Mapping) and isinstance(one.get("id"), str)
    }


def typed_inputs(ports: Mapping[str, Port], params: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs in the platform's form. What the app does not declare goes along: the platform says what it thinks
    of it. Raises Rejected, with every misfit in its words."""
    inputs: dict[str, Any] = {}
    misfits = [
        f"Required input is missing: {name}"
        for name, port in ports.items()
        if params.get(name) is None and not port.is_optional
    ]
    for name, value in params.items():
        if value is None:
            continue
        try:
            inputs[name] = _fitted(ports[name].type if name in ports else ANY, value, name)
        except _Misfit as misfit:
            misfits.append(str(misfit))
    if misfits:
        raise Rejected(one_line("; ".join(misfits)), "inputs_refused")
    return inputs


def named_files(value: Any) -> Iterator[tuple[str, str]]:
    """(class, name) of every File and Directory in typed inputs."""
    if isinstance(value, list):
        for element in value:
            yield from named_files(element)
    elif isinstance(value, dict):
        if value.get("class") in FILE_CLASSES:
            yield value["class"], value["path"]
        for element in value.values():
            yield from named_files(element)


def with_ids(value: Any, ids: Mapping[str, str]) -> Any:
    """Typed inputs with every name that `ids` has replaced."""
    if isinstance(value, list):
        return [with_ids(element, ids) for element in value]
    if not isinstance(value, dict):
        return value
    replaced = {key: with_ids(element, ids) for key, element in value.items()}
    if value.get("class") in FILE_CLASSES:
        replaced["path"] = ids.get(value["path"], value["path"])
    return replaced


def _is_port(declared: Any) -> bool:
    """`{"type": "array", "items": …}` is a type; `{"type": …, "label": …}` is a port."""
    return isinstance(declared, Mapping) and "type" in declared and not ({"items", "symbols", "fields"} & set(declared))


def _short(name: str) -> str:
    return name.rpartition("#")[2].rpartition("/")[2]


def _port(declared: Mapping[str, Any]) -> Port:
    kind = _plain(declared.get("type", ANY))
    return Port(kind, "default" in declared or kind == "null" or (isinstance(kind, list) and "null" in kind))


def _plain(kind: Any) -> Any:
    """A CWL type without `?`, `[]` and `stdin`; a type that is named elsewhere is anything."""
    match kind:
        case str() if kind.endswith("?"):
            return ["null", _plain(kind[:-1])]
        case str() if kind.endswith("[]"):
            return {"type": "array", "items": _plain(kind[:-2])}
        case "stdin":
            return "File"
        case "null" | "File" | "Directory":
            return kind
        case str():
            return kind if kind in PRIMITIVES else ANY
        case list():
            return [_plain(one) for one in kind]
        case {"type": "array", "items": items}:
            return {"type": "array", "items": _plain(items)}
        case {"type": "record", "fields": fields}:
            return {"type": "record", "fields": {name: _port(one) for name, one in _fields(fields)}}
        case {"type": "enum", "symbols": [*symbols]}:
            return {"type": "enum", "symbols": [_short(str(symbol)) for symbol in symbols]}
        case _:
            return ANY


def _fields(fields: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(fields, Mapping):
        yield from ((name, one if _is_port(one) else {"type": one}) for name, one in fields.items())
    elif isinstance(fields, list):
        yield from ((_short(str(one.get("name", ""))), one) for one in fields if isinstance(one, Mapping))


def _fitted(kind: Any, value: Any, where: str) -> Any:
    """The value in the platform's form. Raises _Misfit."""
    match kind:
        case "File" | "Directory":
            return _file(kind, value, where)
        case "null" if value is not None:
            raise _Misfit(f"Input {where} must be left out")
        case str() if kind in PRIMITIVES:
            if not PRIMITIVES[kind](value):
                raise _Misfit(f"Input {where} is not of type {kind}: {_shown(value)}")
            return value
        case list():
            return _one_of(kind, value, where)
        case {"type": "array"}:
            if not isinstance(value, list):
                raise _Misfit(f"Input {where} is not a list: {_shown(value)}")
            return [_fitted(kind["items"], element, f"{where}[{index}]") for index, element in enumerate(value)]
        case {"type": "record"}:
            return _record(kind["fields"], value, where)
        case {"type": "enum"}:
            if value not in kind["symbols"]:
                raise _Misfit(f"Input {where} is none of {', '.join(kind['symbols'])}: {_shown(value)}")
            return value
        case _:
            return _anything(value, where)


def _one_of(kinds: list[Any], value: Any, where: str) -> Any:
    """The first type that fits; where none does, what the last one that is not null missed."""
    if value is None and "null" in kinds:
        return None
    misfit = _Misfit(f"Input {where} must be left out")
    for kind in (one for one in kinds if one != "null"):
        try:
            return _fitted(kind, value, where)
        except _Misfit as found:
            misfit = found
    raise misfit


def _record(fields: Mapping[str, Port], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _Misfit(f"Input {where} is not a record: {_shown(value)}")
    for name, port in fields.items():
        if value.get(name) is None and not port.is_optional:
            raise _Misfit(f"Required input is missing: {where}.{name}")
    return {
        name: _fitted(fields[name].type if name in fields else ANY, element, f"{where}.{name}")
        for name, element in value.items()
        if element is not None
    }


def _anything(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_anything(element, f"{where}[{index}]") for index, element in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if value.get("class") in FILE_CLASSES:
        return _file(value["class"], value, where)
    return {name: _anything(element, f"{where}.{name}") for name, element in value.items()}


def _file(kind: str, value: Any, where: str) -> dict[str, Any]:
    given = value if isinstance(value, Mapping) else {"class": kind, "path": value}
    name = given.get(AT_HOME) or given.get("location") or given.get("path")
    if given.get("class", kind) != kind or not isinstance(name, str) or not name.strip():
        raise _Misfit(f"Input {where} is not a {kind} of the platform: {_shown(value)}")
    file: dict[str, Any] = {"class": kind, "path": _name(name.strip())}
    if secondary := given.get("secondaryFiles"):
        file["secondaryFiles"] = _anything(secondary, f"{where}.secondaryFiles")
    return file


def _name(name: str) -> str:
    return name.removeprefix(SCHEME) if re.fullmatch(rf"{SCHEME}[0-9A-Za-z]+", name) else name


def _shown(value: Any) -> str:
    return one_line(repr(value))[:60]
