"""WES.md, "Requests": one test or more for each numbered point, through the API on both databases."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.artifacts import DirectoryStorage
from app.database import Database
from app.runs import listing
from tests.api_calls import BASE, EDGE, HELLO, error_of, multipart, post, post_form, run, sign_on
from tests.conftest import Clock

FORM = {
    "workflow_url": "main.cwl",
    "workflow_type": "CWL",
    "workflow_type_version": "v1.2",
    "workflow_params": '{"who": "world"}',
}
JSON_FIELDS = ["workflow_params", "tags", "workflow_engine_parameters"]


@pytest.fixture(autouse=True)
def _daemon(database: Database, clock: Clock) -> None:
    sign_on(database, clock())


def request_of(client: FlaskClient, run_id: str) -> dict[str, Any]:
    """The request as the API echoes it."""
    answer: dict[str, Any] = client.get(f"{BASE}/runs/{run_id}").json["request"]
    return answer


def stored_attachments(database: Database, storage: DirectoryStorage, run_id: str) -> dict[str, bytes]:
    with database.reading() as session:
        kept = listing.get_attachments(session, run_id)
    found = {}
    for file in kept:
        with storage.blob(file.sha256).open() as content:
            found[file.path] = content.read()
    return found


def test_1_multipart_with_fields_and_attachments(
    client: FlaskClient, database: Database, storage: DirectoryStorage
) -> None:
    answer = post_form(client, **FORM, attachments={"main.cwl": b"cwlVersion: v1.2", "tools/a.cwl": b"x" * 300_000})
    assert answer.status_code == 200
    run_id = answer.json["run_id"]
    assert request_of(client, run_id)["workflow_params"] == {"who": "world"}
    assert stored_attachments(database, storage, run_id) == {
        "main.cwl": b"cwlVersion: v1.2",
        "tools/a.cwl": b"x" * 300_000,
    }


@pytest.mark.parametrize("filename", ["params.json", ""])
def test_1_scalars_may_be_file_parts(client: FlaskClient, filename: str) -> None:
    parts = [(name, filename, value.encode()) for name, value in FORM.items()]
    answer = client.post(f"{BASE}/runs", **multipart(*parts, ("workflow_attachment", "main.cwl", b"{}")))
    assert answer.status_code == 200, answer.text
    assert request_of(client, answer.json["run_id"])["workflow_params"] == {"who": "world"}


def test_1_urlencoded_form(client: FlaskClient) -> None:
    answer = client.post(f"{BASE}/runs", data=FORM | {"workflow_url": HELLO["workflow_url"]})
    assert answer.request.mimetype == "application/x-www-form-urlencoded"
    assert request_of(client, answer.json["run_id"])["workflow_params"] == {"who": "world"}


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/x+json"])
def test_1_json(client: FlaskClient, content_type: str) -> None:
    answer = client.post(f"{BASE}/runs", data=json.dumps(HELLO), content_type=content_type)
    assert request_of(client, answer.json["run_id"])["workflow_params"] == {"who": "world"}


@pytest.mark.parametrize("nothing", [{"tags": ""}, {"tags": None}, {"workflow_engine": ""}, {"workflow_engine": None}])
def test_1_empty_and_null_mean_absent(client: FlaskClient, nothing: dict[str, Any]) -> None:
    run_id = run(client, nothing)
    assert request_of(client, run_id) == request_of(client, run(client))


def test_1_what_browsers_send_for_no_file_is_no_attachment(
    client: FlaskClient, database: Database, storage: DirectoryStorage
) -> None:
    fields = [(name, None, str(value).encode()) for name, value in FORM.items()]
    fields[0] = ("workflow_url", None, b"https://example.org/x.cwl")
    answer = client.post(f"{BASE}/runs", **multipart(*fields, ("workflow_attachment", "", b"")))
    assert stored_attachments(database, storage, answer.json["run_id"]) == {}


@EDGE
@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("workflow_attachment", "", b"content")], "workflow_attachment"),
        ([("workflow_attachment", None, b"content")], "filename"),
        ([("workflow_attachments", "main.cwl", b"x")], "workflow_attachments"),
        ([("workflow_url", None, b"a.cwl"), ("workflow_url", None, b"b.cwl")], "workflow_url"),
        ([("workflow_params", "p.json", b"\xff\xfe")], "workflow_params"),
        ([("workflow_url", None, b"a\0.cwl")], "workflow_url"),
    ],
)
def test_1_parts_that_cannot_be_meant_are_refused(
    client: FlaskClient, parts: list[tuple[str, str | None, bytes]], words: str
) -> None:
    assert words in error_of(client.post(f"{BASE}/runs", **multipart(*parts)))


@EDGE
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", None, 400),
        (b"", "multipart/form-data; boundary=x", 400),
        (b"workflow_url=x", "text/plain", 415),
        (b"<a/>", "application/xml", 415),
        (b"x", None, 415),
        (b"--x\r\n", "multipart/form-data", 400),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b'--x\r\nContent-Disposition: form-data; name="tags"\r\n\r\n{', "multipart/form-data; boundary=x", 400),
        (b"--x\r\nno header\r\n\r\nvalue\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"workflow_url=%00", "application/x-www-form-urlencoded", 400),
        (b"workflow_url=\xff", "application/x-www-form-urlencoded", 400),
        (b"[]", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"workflow_attachment": ["x"]}', "application/json", 400),
    ],
)
def test_1_bodies_that_are_no_request_are_refused(
    client: FlaskClient, body: bytes, content_type: str | None, status: int
) -> None:
    answer = client.post(f"{BASE}/runs", data=body, content_type=content_type)
    assert answer.status_code == status, answer.text
    error_of(answer)


@pytest.mark.parametrize("encode", [json.dumps, lambda value: value], ids=["text", "object"])
def test_2_objects_are_echoed_as_objects(client: FlaskClient, encode: Any) -> None:
    sent = {
        "workflow_params": {"n": 1, "deep": [{"x": None}]},
        "tags": {"flag": False, "count": 3, "word": "ä"},
        "workflow_engine_parameters": {"debug": None, "retries": 2},
    }
    echoed = request_of(client, run(client, {name: encode(value) for name, value in sent.items()}))
    assert echoed["workflow_params"] == sent["workflow_params"]
    assert echoed["tags"] == {"flag": "false", "count": "3", "word": "ä"}
    assert echoed["workflow_engine_parameters"] == {"debug": "", "retries": "2"}


@EDGE
@pytest.mark.parametrize("field", JSON_FIELDS)
@pytest.mark.parametrize("bad", ["{", "[1]", '{"a": {"b": [NaN]}}'])
def test_2_bad_json_names_its_field(client: FlaskClient, field: str, bad: str) -> None:
    answer = post_form(client, **FORM | {field: bad}, attachments={"main.cwl": b"x"})
    assert answer.status_code == 400
    assert error_of(answer).startswith(field)


@EDGE
@pytest.mark.parametrize("field", ["tags", "workflow_engine_parameters"])
def test_2_nested_values_are_refused(client: FlaskClient, field: str) -> None:
    assert error_of(post(client, {field: {"a": {"b": 1}}})).startswith(field)


@pytest.mark.parametrize("field", JSON_FIELDS)
@pytest.mark.parametrize(
    "bad",
    [
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": "\\u0000"}',
        '{"\\u0000": "a"}',
        '{"a": "\\ud800"}',
        '{"a": ' * 65 + "1" + "}" * 65,
        '{"a": ' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1e999}',
    ],
)
def test_3_json_that_databases_take_differently_is_refused(client: FlaskClient, field: str, bad: str) -> None:
    in_form = post_form(client, **FORM | {field: bad}, attachments={"main.cwl": b"x"})
    whole = json.dumps(HELLO | {field: "BAD"}).replace('"BAD"', bad)
    in_body = client.post(f"{BASE}/runs", data=whole, content_type="application/json")
    assert (in_form.status_code, in_body.status_code) == (400, 400)
    assert error_of(in_form).startswith(field)
    error_of(in_body)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    params=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.integers(-(2**200), 2**200)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        max_size=5,
    )
)
def test_3_all_other_json_comes_back_from_both_databases(client: FlaskClient, params: dict[str, Any]) -> None:
    assert request_of(client, run(client, {"workflow_params": params}))["workflow_params"] == params


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps({"workflow_url": text}).encode()))
def test_3_no_body_makes_the_service_fail(client: FlaskClient, body: bytes) -> None:
    for content_type in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = client.post(f"{BASE}/runs", data=body, content_type=content_type)
        assert answer.status_code == 400, answer.text
        error_of(answer)


@pytest.mark.parametrize(("kind", "version"), [("cwl", "1.2"), ("CWL", "v1.0"), ("Cwl", "V1.1")])
def test_4_types_and_versions_are_lenient_in_spelling(client: FlaskClient, kind: str, version: str) -> None:
    echoed = request_of(client, run(client, {"workflow_type": kind, "workflow_type_version": version}))
    assert (echoed["workflow_type"], echoed["workflow_type_version"]) == ("CWL", version)


def test_4_the_suffix_tells_the_type(client: FlaskClient) -> None:
    assert request_of(client, run(client, {"workflow_type": None}))["workflow_type"] == "CWL"


def test_4_the_engine_is_optional(client: FlaskClient) -> None:
    assert "workflow_engine" not in request_of(client, run(client))
    named = request_of(client, run(client, {"workflow_engine": "CWLtool", "workflow_engine_version": "3.3"}))
    assert (named["workflow_engine"], named["workflow_engine_version"]) == ("cwltool", "3.3")


@EDGE
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"workflow_engine_version": "3.3"}, "needs a workflow_engine"),
        ({"workflow_type": "WDL"}, "Supported: CWL"),
        ({"workflow_type": "nonsense"}, "Supported: CWL"),
        ({"workflow_type_version": "v7"}, "Supported: v1.0, v1.1, v1.2"),
        ({"workflow_engine": "toil"}, "Supported: cwltool"),
        ({"workflow_engine": "cwltool", "workflow_engine_version": "1"}, "Supported: 3.3"),
    ],
)
def test_4_what_is_not_supported_is_refused_with_what_is(
    client: FlaskClient, fields: dict[str, str], words: str
) -> None:
    answer = post(client, fields)
    assert answer.status_code == 400
    assert words in error_of(answer)


def test_4_what_is_offered_since_a_moment_is_taken(client: FlaskClient, database: Database, clock: Clock) -> None:
    """What was offered before is remembered for a second, and refuses nothing."""
    assert post(client, {"workflow_engine": "toil"}).status_code == 400
    toil = {"engine": "toil", "engine_version": "9.6", "workflow_types": {"CWL": ["v1.0"]}}
    sign_on(database, clock(), {"local": {"engines": [toil], "capabilities": {}, "problem": None}})
    run(client, {"workflow_engine": "toil", "workflow_type_version": "v1.0"})


def test_4_without_a_living_daemon_the_last_offers_hold(client: FlaskClient, clock: Clock) -> None:
    clock.advance(days=3)
    run(client)
    assert post(client, {"workflow_type": "WDL"}).status_code == 400


def test_4_the_fragment_is_kept(client: FlaskClient) -> None:
    fields = FORM | {"workflow_url": "packed.cwl#main"}
    answer = post_form(client, **fields, attachments={"packed.cwl": b"x"})
    assert request_of(client, answer.json["run_id"])["workflow_url"] == "packed.cwl#main"


def test_5_attachments_keep_their_directories_and_are_stored_under_our_names(
    client: FlaskClient, database: Database, storage: DirectoryStorage
) -> None:
    sent = {"main.cwl": b"1", "a/b/c.txt": b"2", "a/d é.txt": b"1", "a_b_c.txt": b"3", "%2e%2e/x": b"4"}
    answer = post_form(client, **FORM, attachments=sent)
    assert stored_attachments(database, storage, answer.json["run_id"]) == sent
    blobs = [path.name for path in storage.root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert sorted(map(len, blobs)) == [64] * 4, "by content, each once"


@EDGE
@pytest.mark.parametrize(
    "name",
    [
        "/etc/x",
        "../x",
        "a/../../x",
        "a//b",
        "./x",
        "a/",
        "a\\\\b",
        "C:/x",
        "a\x01b",
        "x" * 256,
        "a/" * 600 + "x",
        "\u202ex",
    ],
)
def test_5_unsafe_names_are_refused_and_leave_nothing(
    client: FlaskClient, storage: DirectoryStorage, name: str
) -> None:
    fields = [(field, None, value.encode()) for field, value in FORM.items()]
    files = [("workflow_attachment", "main.cwl", b"x"), ("workflow_attachment", name, b"y")]
    answer = client.post(f"{BASE}/runs", **multipart(*fields, *files))
    assert answer.status_code == 400
    assert error_of(answer).startswith("workflow_attachment")
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []


@EDGE
@pytest.mark.parametrize("names", [["a", "A"], ["a", "a"], ["x", "x/y"], ["\u00e9", "e\u0301"]])
def test_5_names_that_meet_are_refused(client: FlaskClient, storage: DirectoryStorage, names: list[str]) -> None:
    fields = [(field, None, value.encode()) for field, value in FORM.items()]
    files = [("workflow_attachment", name, b"x") for name in ["main.cwl", *names]]
    answer = client.post(f"{BASE}/runs", **multipart(*fields, *files))
    assert answer.status_code == 400
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []


@EDGE
def test_6_relative_without_attachments_in_the_words_that_clients_look_for(client: FlaskClient) -> None:
    answer = post(client, {"workflow_url": "main.cwl"})
    assert answer.status_code == 400
    assert error_of(answer) == "Relative 'workflow_url' but missing 'workflow_attachment'"


@EDGE
def test_6_relative_to_no_attachment(client: FlaskClient) -> None:
    answer = post_form(client, **FORM, attachments={"other.cwl": b"x"})
    assert answer.status_code == 400
    assert "other.cwl" in error_of(answer)


@EDGE
@pytest.mark.parametrize("changes", [{"file_roots": ("/srv/workflows",)}])
@pytest.mark.parametrize(
    ("workflow_url", "status"),
    [
        ("s3://bucket/main.cwl", 200),
        ("trs://host/id", 200),
        ("file:///srv/workflows/main.cwl", 200),
        ("/srv/workflows/main.cwl", 200),
        ("file:///etc/passwd", 400),
        ("/srv/workflows/../../etc/passwd", 400),
        ("gopher://x/main.cwl", 400),
    ],
)
def test_6_absolute_places(client: FlaskClient, workflow_url: str, status: int) -> None:
    assert post(client, {"workflow_url": workflow_url}).status_code == status


def test_7_wrong_workflow_inputs_are_accepted(client: FlaskClient) -> None:
    document = b"cwlVersion: v1.2\nclass: CommandLineTool\ninputs: {needed: File}\noutputs: []\n"
    form = FORM | {"workflow_params": '{"nonsense": 1}'}
    assert post_form(client, **form, attachments={"main.cwl": document}).status_code == 200


@EDGE
@pytest.mark.parametrize("changes", [{"max_request_bytes": 200_000, "max_field_bytes": 100_000, "max_attachments": 3}])
class TestLimits:
    """8: limits are settings, Flask's own are raised to them, and 413 names them."""

    def test_8_a_field_may_be_as_long_as_the_setting(self, client: FlaskClient) -> None:
        params = json.dumps({"x": "y" * 99_000})
        form = FORM | {"workflow_params": params, "workflow_url": HELLO["workflow_url"]}
        assert post_form(client, **form).status_code == 200
        assert (
            client.post(
                f"{BASE}/runs",
                data=json.dumps(HELLO | {"workflow_params": {"x": "y" * 99_000}}),
                content_type="application/json",
            ).status_code
            == 200
        )

    @pytest.mark.parametrize(
        "body",
        [
            multipart(("workflow_params", None, b"x" * 100_001)),
            multipart(("workflow_params", "p.json", b"x" * 100_001)),
            multipart(("workflow_attachment", "a", b"x" * 200_001)),
            multipart(*[("workflow_attachment", str(number), b"") for number in range(50)]),
            {"data": b"x" * 100_001, "content_type": "application/json"},
            {"data": b"x=" + b"x" * 100_001, "content_type": "application/x-www-form-urlencoded"},
        ],
        ids=["field", "file field", "request", "parts", "json", "urlencoded"],
    )
    @pytest.mark.parametrize("path", ["/runs", "/runs/validate"])
    def test_8_over_a_limit_is_413_with_the_limit_in_the_words(
        self, client: FlaskClient, storage: DirectoryStorage, body: dict[str, Any], path: str
    ) -> None:
        answer = client.post(BASE + path, **body)
        assert answer.status_code == 413
        words = error_of(answer)
        assert all(limit in words for limit in ("200000", "100000", "3 attachments", "MAX_REQUEST_BYTES"))
        assert [path for path in storage.root.rglob("*") if path.is_file()] == []

    def test_8_chunked_bodies_are_limited_too(self, client: FlaskClient) -> None:
        body = multipart(("workflow_attachment", "a", b"x" * 200_001))
        answer = client.post(
            f"{BASE}/runs",
            input_stream=io.BytesIO(body["data"]),
            content_type=body["content_type"],
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert answer.status_code == 413
        error_of(answer)


@EDGE
def test_8_more_attachments_than_flask_allows_by_itself(client: FlaskClient) -> None:
    attachments = {"main.cwl": b"x"} | {f"f{number}": b"" for number in range(1050)}
    assert post_form(client, **FORM, attachments=attachments).status_code == 200


@EDGE
def test_8_more_than_flask_allows_in_one_field(client: FlaskClient) -> None:
    form = FORM | {"workflow_params": json.dumps({"x": "y" * 2_000_000}), "workflow_url": HELLO["workflow_url"]}
    assert post_form(client, **form).status_code == 200


def test_9_the_same_key_and_request_make_one_run(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k1"}
    first = run(client, headers=key)
    assert run(client, headers=key) == first
    assert run(client, headers={"Idempotency-Key": "k2"}) != first
    assert run(client) != first


def test_9_attachments_are_part_of_the_request(client: FlaskClient) -> None:
    def send(content: bytes) -> Any:
        body = multipart(
            *[(name, None, value.encode()) for name, value in FORM.items()],
            ("workflow_attachment", "main.cwl", content),
        )
        return client.post(f"{BASE}/runs", **body, headers={"Idempotency-Key": "k"})

    first = send(b"a")
    assert send(b"a").json == first.json
    assert send(b"b").status_code == 422


def test_9_the_same_key_for_another_request_is_422(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k1"}
    first = run(client, headers=key)
    answer = post(client, {"workflow_params": {"who": "else"}}, headers=key)
    assert answer.status_code == 422
    assert first in error_of(answer)


def test_9_delete_frees_the_key(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k1"}
    first = run(client, headers=key)
    client.post(f"{BASE}/runs/{first}/cancel")
    assert client.delete(f"{BASE}/runs/{first}").status_code == 200
    assert run(client, headers=key) != first


@EDGE
@pytest.mark.parametrize("key", ["x" * 256, "a\tb"])
def test_9_a_key_that_cannot_be_kept_is_refused(client: FlaskClient, key: str) -> None:
    answer = post(client, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert "Idempotency-Key" in error_of(answer)
