"""The page's description of itself for programs (OpenAPI), from the forms that the page is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Schema = Mapping[str, Any]

_REASONS = {
    403: "another page or host asks",
    404: "there is no such thing, or no longer",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "a type of content, or a picture, that is not read here",
    422: "an entry is wrong or costs too much; the text says which, and what would work",
    429: "the server is busy",
}
_BODY = (403, 408, 413, 415, 429)
_EVENTS = "server-sent events: queued, prediction, begun, progress, map, card, failed, summary, done or stopped"


def describe(form: Mapping[str, Any], files: Iterable[str], question: Schema, tests: Schema) -> dict[str, Any]:
    """Return the description of every path. `question`, `tests`: the schemas of the two bodies of JSON."""
    definitions = {**question.get("$defs", {}), **tests.get("$defs", {})}
    definitions["MethodFields"] = {"anyOf": [_method(each) for each in form["methods"]]}
    picture = {
        "type": "object",
        "required": ["id", "picture", "notes"],
        "properties": {"id": {"type": "string"}, "picture": {"type": "object"}, "notes": {"type": "array"}},
    }
    bodies = {f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("png", "jpeg", "webp")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "limelight serve", "version": form["version"]},
        "paths": {
            "/": {"get": _operation("the page", "text/html")},
            "/viewer/{name}": {
                "get": _operation("a file of the page", "text/*", codes=(403, 404), names={"name": sorted(files)})
            },
            "/api/form": {"get": _operation("what can be asked", "application/json")},
            "/api/openapi.json": {"get": _operation("this description", "application/json")},
            "/api/pictures": {"post": _operation("keep a picture", "application/json", picture, bodies, (*_BODY, 422))},
            "/api/demo": {
                "post": _operation("keep the demonstration picture", "application/json", picture, codes=(403, 404, 429))
            },
            "/api/explain": {
                "post": _operation(_EVENTS, "text/event-stream", body=_json(question), codes=(*_BODY, 404, 422))
            },
            "/api/tests": {
                "post": _operation(_EVENTS, "text/event-stream", body=_json(tests), codes=(*_BODY, 404, 422))
            },
            "/api/maps/{name}": {
                "get": _operation("a map", "application/octet-stream", codes=(403, 404), names={"name": []})
            },
        },
        "components": {"schemas": definitions},
    }


def _operation(
    summary: str,
    answer: str,
    schema: Schema | None = None,
    body: Schema | None = None,
    codes: Iterable[int] = (403,),
    names: Mapping[str, list[str]] | None = None,
) -> dict[str, Any]:
    """Describe one operation; `names` are the parameters of its path, each with the values that it takes, if known."""
    refusals = {str(code): {"description": _REASONS[code]} for code in sorted(codes)}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {answer: {"schema": schema or {}}}}} | refusals,
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": dict(body)}
    if names:
        operation["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string"} | ({"enum": values} if values else {}),
            }
            for name, values in names.items()
        ]
    return operation


def _json(schema: Schema) -> dict[str, Any]:
    """Return a body of JSON, whose references lead to the components of the whole description."""
    own = {key: value for key, value in schema.items() if key != "$defs"}
    return {"application/json": {"schema": _moved(own)}}


def _moved(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value)
            for key, value in schema.items()
        }
    return [_moved(each) for each in schema] if isinstance(schema, list) else schema


def _method(form: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a method by its name and its fields; every field is sent as text."""
    fields = {
        each["name"]: {"type": "string", "maxLength": 300, "default": each["default"]} | _choices(each)
        for each in form["fields"]
    }
    return {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {"const": form["name"], "description": form["summary"]},
            "fields": {"type": "object", "additionalProperties": False, "properties": fields},
        },
    }


def _choices(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a field takes: choices, a pattern of numbers, or examples of values with settings of their own."""
    match field["kind"]:
        case "choice":
            return {"enum": field["options"]}
        case "switch":
            return {"enum": ["True", "False"]}
        case "number":
            none = "|None" if field["optional"] else ""
            return {"pattern": f"^(-?[0-9]+{'' if field['whole'] else '([.][0-9]+)?(e-?[0-9]+)?'}{none})$"}
        case "named":
            return {"examples": [f"{each['name']}()" for each in field["options"]]}
    return {}
