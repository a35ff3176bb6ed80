"""A rest-json AWS service as botocore's own model has it: routes, and a check of every request and answer against it.

Everything is checked as it is on the wire (JSON values), so nothing that our code believes can creep in. Knows no service.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import botocore.session
import regex
from botocore.model import OperationModel, Shape

from tests.fakes.faults import Reply, Request

BODILESS = (204,)


class Refused(Exception):
    """A request that the service refuses, with the name of a modelled error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ModelViolated(Exception):
    """The fake was about to say something that its service's model does not allow."""


class AwsModel:
    """The routes, shapes and errors of one service."""

    def __init__(self, service: str) -> None:
        self._service = botocore.session.get_session().get_service_model(service)
        operations = [self._service.operation_model(name) for name in self._service.operation_names]
        # A literal path wins over one with labels: /runBatch/cancel over /runBatch/{batchId}.
        operations.sort(key=lambda operation: operation.http["requestUri"].count("{"))
        self._routes = [
            (operation.http["method"], _path_pattern(operation.http["requestUri"]), operation)
            for operation in operations
        ]

    def find(self, request: Request) -> tuple[OperationModel, dict[str, str]] | None:
        """The operation, and the labels in its path, decoded. Matched while encoded: an ARN in a label holds slashes."""
        for method, pattern, operation in self._routes:
            if method == request.method and (found := pattern.fullmatch(request.path)):
                return operation, {name: unquote(value) for name, value in found.groupdict().items()}
        return None

    def read(self, operation: OperationModel, labels: Mapping[str, str], request: Request) -> dict[str, Any]:
        """The members of a request. Raises Refused(ValidationException) naming everything that is wrong with it."""
        shape = operation.input_shape
        members, strays = _members_of(shape, labels, request) if shape else ({}, [])
        wrong = strays + (list(problems(shape, members, "")) if shape else [])
        if wrong:
            raise Refused("ValidationException", f"{len(wrong)} validation error(s): " + "; ".join(wrong))
        return members

    def write(self, operation: OperationModel, result: Mapping[str, Any] | None) -> Reply:
        """The answer to a call that succeeded. Raises ModelViolated."""
        status, shape = operation.http["responseCode"], operation.output_shape
        if shape is None or status in BODILESS:
            if result:
                raise ModelViolated(f"{operation.name} answers nothing, not {result}")
            return Reply(status)
        reply = Reply.of_json(status, result or {})
        if wrong := list(problems(shape, json.loads(reply.body), "")):
            raise ModelViolated(f"{operation.name}: " + "; ".join(wrong))
        return reply

    def error(self, operation: OperationModel, refused: Refused) -> Reply:
        """The answer to a call that failed. Raises ModelViolated for an error that the operation does not have."""
        for shape in operation.error_shapes:
            if shape.name == refused.code:
                return error_reply(shape.metadata["error"]["httpStatusCode"], refused.code, refused.message)
        raise ModelViolated(f"{operation.name} has no {refused.code}")


def error_reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply.of_json(status, {"message": message}, {"x-amzn-ErrorType": code, **(headers or {})})


def problems(shape: Shape, value: Any, where: str) -> Iterator[str]:
    """What of a JSON value is not as its shape says."""
    if shape.type_name == "structure" and getattr(shape, "is_document_type", False):
        return
    yield from _CHECKS[shape.type_name](shape, value, where or shape.name)


def _check_structure(shape: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: not an object"
        return
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield f"{where}: exactly one member of a union"
    for name in shape.required_members:
        if name not in value:
            yield f"{where}.{name}: missing"
    for name, element in value.items():
        if name in shape.members:
            yield from problems(shape.members[name], element, f"{where}.{name}")
        else:
            yield f"{where}.{name}: unknown member"


def _check_list(shape: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where}: not a list"
        return
    yield from _within(shape, len(value), where, "elements")
    for number, element in enumerate(value):
        yield from problems(shape.member, element, f"{where}[{number}]")


def _check_map(shape: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: not a map"
        return
    yield from _within(shape, len(value), where, "entries")
    for key, element in value.items():
        yield from problems(shape.key, key, f"{where} key {key!r}")
        yield from problems(shape.value, element, f"{where}[{key!r}]")


def _check_string(shape: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{where}: not a string"
        return
    yield from _within(shape, len(value), where, "characters")
    if shape.enum and value not in shape.enum:
        yield f"{where}: {value!r} is not one of {', '.join(shape.enum)}"
    pattern = shape.metadata.get("pattern")
    if pattern and not _compiled(pattern).match(value):
        yield f"{where}: {value!r} does not match {pattern}"


def _check_integer(shape: Any, value: Any, where: str) -> Iterator[str]:
    if type(value) is not int:
        yield f"{where}: not an integer"
        return
    yield from _within(shape, value, where, "")


def _check_boolean(shape: Any, value: Any, where: str) -> Iterator[str]:
    if type(value) is not bool:
        yield f"{where}: not a boolean"


def _check_timestamp(shape: Any, value: Any, where: str) -> Iterator[str]:
    try:
        aware = datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        aware = False
    if not aware:
        yield f"{where}: {value!r} is not an ISO-8601 time with a zone"


def _check_blob(shape: Any, value: Any, where: str) -> Iterator[str]:
    try:
        base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        yield f"{where}: not base64"


_CHECKS: dict[str, Callable[[Any, Any, str], Iterator[str]]] = {
    "structure": _check_structure,
    "list": _check_list,
    "map": _check_map,
    "string": _check_string,
    "integer": _check_integer,
    "long": _check_integer,
    "boolean": _check_boolean,
    "timestamp": _check_timestamp,
    "blob": _check_blob,
}


def _within(shape: Any, size: int, where: str, unit: str) -> Iterator[str]:
    least, most = shape.metadata.get("min", size), shape.metadata.get("max", size)
    if not least <= size <= most:
        yield f"{where}: {size} {unit} is not within {least}..{most}".replace("  ", " ")


@cache
def _compiled(pattern: str) -> regex.Pattern[str]:
    # The models drop the outer ^ and $ of what the service matches, as `$|^arn:.+` shows: put them back, outermost.
    # The doubled bars within [...] are literal, which is why this is `regex` (for \p{..}) in its version 0 syntax.
    return regex.compile(f"^{pattern}\\Z", regex.VERSION0)


def _path_pattern(uri: str) -> regex.Pattern[str]:
    return regex.compile(regex.sub(r"\\?\{(\w+)\\?\}", r"(?P<\1>[^/]+)", regex.escape(uri)))


def _members_of(shape: Any, labels: Mapping[str, str], request: Request) -> tuple[dict[str, Any], list[str]]:
    """The members by where the model says they travel, and what was sent that has no place in it."""
    members, strays = _body_of(request)
    query: dict[str, list[str]] = {}
    for name, text in parse_qsl(request.query, keep_blank_values=True):
        query.setdefault(name, []).append(text)
    for name, member in shape.members.items():
        place, wire = member.serialization.get("location"), member.serialization.get("name", name)
        if place is not None and members.pop(name, None) is not None:
            strays.append(f"{name}: belongs in the {place}, not in the body")
        if place == "uri" and wire in labels:
            members[name] = labels[wire]
        elif place == "header" and request.headers.get(wire) is not None:
            members[name] = _typed(member, [request.headers[wire]])
        elif place == "querystring" and wire in query:
            members[name] = _typed(member, query.pop(wire))
    return members, strays + [f"{name}: unknown query parameter" for name in query]


def _body_of(request: Request) -> tuple[dict[str, Any], list[str]]:
    if not request.body:
        return {}, []
    if not (request.headers.get("Content-Type") or "").startswith("application/json"):
        return {}, ["Content-Type: not application/json"]
    try:
        body = json.loads(request.body, parse_constant=_refuse_constant)
    except ValueError as error:
        return {}, [f"body: {error}"]
    return (body, []) if isinstance(body, dict) else ({}, ["body: not an object"])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _typed(shape: Any, texts: list[str]) -> Any:
    """Texts from a query or header as the JSON value they stand for; left as they are where they stand for none."""
    if shape.type_name == "list":
        return [_typed(shape.member, [text]) for text in texts]
    if len(texts) > 1:
        return texts
    if shape.type_name in ("integer", "long") and regex.fullmatch(r"-?[0-9]+", texts[0]):
        return int(texts[0])
    if shape.type_name == "boolean" and texts[0] in ("true", "false"):
        return texts[0] == "true"
    return texts[0]
