"""The pipeline document as users write it. The model is the format: its JSON Schema is published.

Fields that only the server sets (`workflow_id`, `status`, `task_id` …) are not in it: they are refused like any
unknown one.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

MAX_STEPS = 5000
MAX_SHARDS = 10_000
MAX_RETRIES = 10

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
Text = Annotated[str, StringConstraints(max_length=65_536)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Scatter(_Strict):
    """Run a step once for each element. `over` is a list or a reference to one, `sheet` an attached CSV or TSV file."""

    item: Name = Field("item", description="what references call the element: ${item}, ${item.column}")
    over: list[JsonValue] | Text | None = None
    sheet: Text | None = Field(None, description="an attached .csv or .tsv file; its first row names the columns")

    @model_validator(mode="after")
    def _one_source(self) -> Scatter:
        if (self.over is None) == (self.sheet is None):
            raise ValueError("give either 'over' or 'sheet'")
        return self


class Step(_Strict):
    """One run, or one for each element of a scatter. It is an `app` of BV-BRC or names a workflow by `workflow_url`."""

    step_name: Name
    app: Text | None = None
    workflow_url: Text | None = None
    workflow_type: Text | None = None
    workflow_type_version: Text | None = None
    workflow_engine: Text | None = None
    workflow_engine_version: Text | None = None
    workflow_engine_parameters: dict[str, str | None] = Field(default_factory=dict)
    provider: Text | None = None
    params: dict[str, JsonValue] = Field(default_factory=dict)
    outputs: dict[str, JsonValue] | None = Field(
        None, description="named values for later steps; left out, the outputs of the run itself have their names"
    )
    depends_on: list[Name] | None = None
    scatter: Scatter | None = None
    retries: int = Field(0, ge=0, le=MAX_RETRIES)
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Step:
        if (self.app is None) == (self.workflow_url is None):
            raise ValueError("give either 'app' or 'workflow_url'")
        return self

    @property
    def names_its_outputs(self) -> bool:
        """True where every output is known before the step has run; without a list they are what the run puts out."""
        return bool(self.outputs)


class Document(_Strict):
    """A pipeline."""

    workflow_name: Text
    version: Text = "1.0"
    base_context: dict[str, JsonValue] = Field(default_factory=dict)
    steps: list[Step] = Field(min_length=1, max_length=MAX_STEPS)
    workflow_outputs: list[Text] | dict[str, Text] = Field(default_factory=list)
    max_parallel_steps: int | None = Field(None, ge=1, le=1000)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the document."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Document.model_json_schema()}
