"""The AsyncAPI document against the official JSON Schema of AsyncAPI, where npm can bring that."""

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator

from schemas import asyncapi
from tests.support.node import NodeUnavailableError, installed

SPECS = "@asyncapi/specs@6.8.1"


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    try:
        folder = installed("asyncapi-specs-6.8.1", SPECS)
    except NodeUnavailableError as error:
        pytest.skip(str(error))
    path = folder / "node_modules" / "@asyncapi" / "specs" / "schemas" / f"{asyncapi.VERSION}.json"
    return Draft7Validator(json.loads(path.read_text(encoding="utf-8")))


def test_the_document_is_one(validator: Draft7Validator) -> None:
    problems = [
        f"{list(error.absolute_path)}: {error.message[:200]}" for error in validator.iter_errors(asyncapi.document())
    ]
    assert problems == []


@pytest.mark.parametrize("change", [{"channels": {"commands": {"address": 1}}}, {"asyncapi": "2.0.0"}, {"surprise": 1}])
def test_a_document_that_is_wrong_is_refused(validator: Draft7Validator, change: dict[str, Any]) -> None:
    assert not validator.is_valid(asyncapi.document() | change)
