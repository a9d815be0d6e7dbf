"""The OpenAPI document: valid, complete, and the one in the repository is this one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from controller.api.openapi import document
from controller.api.problem import STATUS, ProblemCode
from controller.api.routes import ROUTES

ROOT = Path(__file__).parents[4]
FILE = ROOT / "docs/openapi.json"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    found = json.loads(document(ROUTES))
    assert isinstance(found, dict)
    return found


def test_it_is_valid_openapi(described: dict[str, Any]):
    OpenAPIV31SpecValidator(described).validate()


def test_the_one_in_the_repository_is_current():
    assert FILE.read_bytes() == document(ROUTES), (
        "docs/openapi.json is old: .venv/bin/python -m controller.api.routes > docs/openapi.json"
    )


def test_it_has_every_route_with_its_parts(described: dict[str, Any]):
    for route in ROUTES:
        operation = described["paths"][route.path][route.method.lower()]
        assert operation["operationId"] == route.name
        assert operation["summary"]
        assert ("requestBody" in operation) == (route.body is not None)
        assert (operation.get("security") == []) == route.open
        named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", route.path))
        assert "default" in operation["responses"]
    assert sum(len(methods) for methods in described["paths"].values()) == len(ROUTES)


def test_every_code_of_a_problem_has_a_status_and_is_in_the_document(described: dict[str, Any]):
    assert set(STATUS) == set(ProblemCode)
    codes = described["components"]["schemas"]["ProblemCode"]["enum"]
    assert set(codes) == {code.value for code in ProblemCode}


def test_a_secret_is_in_no_answer_but_where_it_is_made(described: dict[str, Any]):
    schemas = described["components"]["schemas"]
    holders = {name for name, schema in schemas.items() if "token" in schema.get("properties", {})}
    assert holders == {"LoggedIn", "Token", "AddedRouter", "AddedEdge"}
