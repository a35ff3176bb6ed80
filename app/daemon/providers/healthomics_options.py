"""StartRun's options as engine parameters, and a run's parameters, checked before anything is sent. Sends nothing.

The options and what they may be are those of botocore's own model of the service: a newer boto3 brings newer options.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from app.daemon.providers.healthomics_workflows import Workflow
from app.errors import InvalidRequest, Rejected
from app.strict import load_json

MAX_PARAMETER_BYTES = 50_000
MAX_TAGS = 50
OURS = frozenset({"requestId", "name", "workflowId", "parameters"})
"""Members of StartRun that the run itself says."""
REFUSED = {"runId": "HealthOmics would take another run's inputs. Use this service's own re-run instead."}
IGNORED = frozenset({"provider"})
"""Engine parameters that are for the routing of requests."""
_TAG_TEXT = re.compile(r"[\w .:/=+@-]*")


class RunOptions:
    """What may be said of a run, by the model of a boto3 client. `defaults`: options as the settings have them; raises
    Rejected for a wrong one. `other_roles`: roles that a run may ask for besides the configured one."""

    def __init__(
        self, client: Any, role_arn: str, defaults: Mapping[str, str], other_roles: Collection[str] = ()
    ) -> None:
        members = client.meta.service_model.operation_model("StartRun").input_shape.members
        self._shapes = {name: shape for name, shape in members.items() if name not in OURS}
        self._names = {_plain(name): name for name in self._shapes}
        self._roles = frozenset({role_arn, *other_roles})
        self.defaults = {"roleArn": role_arn, **self._read(defaults)}

    def read(self, engine_parameters: Mapping[str, str | None]) -> dict[str, Any]:
        """The options that a request gives. Names may be spelled storageType, storage_type or storage-type."""
        options = self._read({name: text for name, text in engine_parameters.items() if name not in IGNORED})
        if options.get("roleArn", self.defaults["roleArn"]) not in self._roles:
            raise _wrong(
                "roleArn", "is not one of the roles that this service may use: see HEALTHOMICS_OTHER_ROLE_ARNS"
            )
        return options

    def check(self, name: str, value: Any) -> None:
        """Raises Rejected where the service would not take this value of a member."""
        check_value(name, self._shapes[name], value)

    def described(self) -> tuple[tuple[str, str, str], ...]:
        """(name, type, default) of every option, for service-info."""
        return tuple(
            (name, shape.type_name, str(self.defaults.get(name, ""))) for name, shape in self._offered().items()
        )

    def _offered(self) -> dict[str, Any]:
        return {name: shape for name, shape in self._shapes.items() if name not in REFUSED}

    def _read(self, given: Mapping[str, str | None]) -> dict[str, Any]:
        return dict(self._option(name, text) for name, text in given.items())

    def _option(self, given: str, text: str | None) -> tuple[str, Any]:
        name = self._names.get(_plain(given))
        if name is None:
            near = difflib.get_close_matches(_plain(given), self._names, 1)
            hint = f" Did you mean {self._names[near[0]]!r}?" if near else f" Options: {', '.join(self._offered())}."
            raise _wrong(given, f"is not an option of a HealthOmics run.{hint}")
        if name in REFUSED:
            raise _wrong(given, f"cannot be used: {REFUSED[name]}")
        if text is None:
            raise _wrong(given, "needs a value")
        value = _CONVERTED.get(self._shapes[name].type_name, _as_text)(name, text)
        check_value(name, self._shapes[name], value)
        return name, value


def check_value(name: str, shape: Any, value: Any) -> None:
    """Raises Rejected where a value is not as the service's model has it. The rest is the service's to tell."""
    limits = shape.metadata
    size = value if isinstance(value, int) else len(value)
    least, most = limits.get("min", size), limits.get("max", size)
    if not least <= size <= most:
        unit = "" if isinstance(value, int) else " characters"
        raise _wrong(name, f"is {size}{unit}; it must be {least} to {most}")
    if isinstance(value, str):
        _check_text(name, shape, value)
    if shape.type_name == "map":
        for key, element in value.items():
            if not isinstance(element, str):
                raise _wrong(name, f"must be a JSON object of texts, but {key!r} is none")
            check_value(f"{name} key {key!r}", shape.key, key)
            check_value(f"{name}[{key!r}]", shape.value, element)


def check_parameters(parameters: Mapping[str, Any], workflow: Workflow) -> None:
    """Raises Rejected, with every reason, where the service would refuse a run's parameters."""
    size = len(json.dumps(parameters).encode())  # as botocore writes them
    if size > MAX_PARAMETER_BYTES:
        words = f"The parameters are {size:,} bytes of JSON; HealthOmics takes at most {MAX_PARAMETER_BYTES:,}."
        raise Rejected(f"{words} Put long lists into a file in S3 and name that.", "parameters_too_large")
    template = workflow.parameterTemplate
    if not template:  # the service says nothing of what the workflow takes, so it will judge by itself
        return
    problems = [_unknown(name, template) for name in parameters if name not in template]
    required = {name for name, parameter in template.items() if not parameter.optional}
    problems += [f"{name!r} is required and missing." for name in sorted(required - set(parameters))]
    if problems:
        takes = ", ".join(name if name in required else f"{name} (optional)" for name in sorted(template))
        words = f"workflow_params do not fit workflow {workflow.id}: {' '.join(problems)} It takes: {takes}."
        raise Rejected(words, "invalid_parameters")


def check_storage(options: Mapping[str, Any]) -> None:
    """Raises Rejected where fixed storage is asked for without a size."""
    if options.get("storageType") == "STATIC" and "storageCapacity" not in options:
        raise Rejected("storageType STATIC needs storageCapacity in GiB; or use DYNAMIC.", "invalid_engine_parameter")


def fitting_tags(tags: Mapping[str, str], room: int) -> dict[str, str]:
    """Those of a run's tags that AWS takes as tags, for cost allocation; at most `room`."""
    fitting = [(key, value) for key, value in sorted(tags.items()) if _is_tag(key, value)]
    return dict(fitting[:room])


def _is_tag(key: str, value: str) -> bool:
    fits = 0 < len(key) <= 128 and len(value) <= 256 and not key.lower().startswith("aws:")
    return fits and bool(_TAG_TEXT.fullmatch(key) and _TAG_TEXT.fullmatch(value))


def _unknown(name: str, template: Mapping[str, Any]) -> str:
    last = name.rpartition(".")[2]
    near = [last] if last in template else difflib.get_close_matches(name, template, 1)
    return f"{name!r} is not a parameter of it{f': did you mean {near[0]!r}?' if near else '.'}"


def _check_text(name: str, shape: Any, value: str) -> None:
    if shape.enum and value not in shape.enum:
        raise _wrong(name, f"is {value!r}; it must be one of {', '.join(shape.enum)}")
    pattern = shape.metadata.get("pattern", "")
    try:
        matches = re.fullmatch(pattern, value) if pattern else True
    except re.error:  # \p{…}, which Python's own expressions do not have
        return
    if not matches:
        raise _wrong(name, f"is {value!r}, which is not of the form {pattern}")


def _as_text(name: str, text: str) -> Any:
    return text


def _as_integer(name: str, text: str) -> Any:
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        return int(text)
    raise _wrong(name, f"is {text!r}, which is not a whole number")


def _as_object(name: str, text: str) -> Any:
    try:
        value = load_json(text, name)
    except InvalidRequest as error:
        raise Rejected(str(error), "invalid_engine_parameter") from None
    if not isinstance(value, dict):
        raise _wrong(name, "must be a JSON object")
    return value


_CONVERTED: Mapping[str, Callable[[str, str], Any]] = {
    "integer": _as_integer,
    "map": _as_object,
    "structure": _as_object,
}


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


def _wrong(name: str, words: str) -> Rejected:
    end = "" if words.endswith((".", "?")) else "."
    return Rejected(f"workflow_engine_parameters: {name} {words}{end}", "invalid_engine_parameter")
