"""deploy/bicep: sound as far as it can be told without a compiler, and the same as what provisioning makes."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.bicep import FUNCTIONS, TYPES, BicepError, Call, Module, Name, Statement, Text, expressions, read
from tests.support.worker_settings import NOWHERE
from worker.provisioning.cosmos import container_properties
from worker.provisioning.servicebus import COMMAND_QUEUE, REPLY_QUEUE

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "bicep"
MODULES: Final = {path.name: read(path) for path in sorted(FOLDER.glob("*.bicep"))}
MAIN: Final = MODULES["main.bicep"]
EACH: Final = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)

ROLES: Final = {
    "090c5cfd-751d-490a-894a-3ce6f1109419": "Azure Service Bus Data Owner",
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": "Azure Service Bus Data Receiver",
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": "Azure Service Bus Data Sender",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
}
DATA_ACTIONS: Final = {
    "readMetadata",
    "sqlDatabases/containers/executeQuery",
    *(f"sqlDatabases/containers/items/{action}" for action in ("create", "read", "replace", "delete")),
}


def parts(statement: Statement) -> Iterator[Name | Call]:
    yield from expressions((statement.value, statement.condition, statement.loop and statement.loop[1]))


def resource(file: str, name: str) -> Statement:
    return MODULES[file].named("resource")[name]


def test_the_folder_is_looked_at() -> None:
    assert set(MODULES) == {"main.bicep", "servicebus.bicep", "cosmos.bicep", "storage.bicep"}


@EACH
def test_every_name_and_every_function_is_known(module: Module) -> None:
    known = {each.name for each in module.statements if each.kind != "output"}
    for statement in module.statements:
        loop = {statement.loop[0]} if statement.loop else set()
        for found in parts(statement):
            if isinstance(found, Name):
                assert found.symbol in known | loop, f"{statement.name} names {found.symbol}"
            else:
                assert found.function in FUNCTIONS | {"!"}, f"{statement.name} calls {found.function}"


@EACH
def test_every_parameter_and_variable_is_used_and_has_a_type(module: Module) -> None:
    used = {found.symbol for each in module.statements for found in parts(each) if isinstance(found, Name)}
    assert set(module.named("param")) | set(module.named("var")) <= used
    assert {each.type for each in module.statements if each.kind in ("param", "output")} <= TYPES


@EACH
def test_every_resource_has_a_released_api_version_and_a_name(module: Module) -> None:
    for each in module.named("resource").values():
        assert re.fullmatch(r"Microsoft\.[A-Za-z]+(/[A-Za-z]+)+@20\d\d-\d\d-\d\d", each.type), each.type
        assert "name" in each.value
        if each.type.partition("@")[0].count("/") > 1:
            assert isinstance(each.value["parent"], Name), f"{each.name} is a child and names no parent"


@EACH
def test_names_are_declared_once_and_no_key_is_read(module: Module) -> None:
    names = [each.name for each in module.statements if each.kind != "output"]
    assert len(names) == len(set(names))
    assert "listKeys" not in module.path.read_text()


def test_modules_get_exactly_the_parameters_that_they_want_and_give_the_outputs_that_are_used() -> None:
    for each in MAIN.named("module").values():
        wanted = MODULES[each.type].named("param")
        given = set(each.value["params"])
        assert given <= set(wanted)
        assert {name for name, parameter in wanted.items() if parameter.value is None} <= given
    for output in MAIN.named("output").values():
        (name,) = expressions(output.value)
        assert isinstance(name, Name)
        if name.symbol in MAIN.named("module"):
            module = MODULES[MAIN.named("module")[name.symbol].type]
            assert name.path[0] == "outputs"
            assert name.path[1] in module.named("output")


def test_what_can_be_chosen_is_described_and_the_defaults_are_those_of_the_settings() -> None:
    parameters = MAIN.named("param")
    assert all(any(each.function == "description" for each in one.decorators) for one in parameters.values())
    same = {
        "commandQueue": NOWHERE.command_queue,
        "replyQueue": NOWHERE.reply_queue,
        "cosmosDatabase": NOWHERE.cosmos_database,
        "cosmosContainer": NOWHERE.cosmos_container,
        "leaseContainer": NOWHERE.lease_container,
    }
    assert {name: parameters[name].value for name in same} == same


def in_bicep(properties: Any) -> dict[str, Any]:
    """The management client's names and values as Azure's resource has them."""

    def camel(name: str) -> str:
        first, *rest = name.split("_")
        return first + "".join(map(str.capitalize, rest))

    def told(value: Any) -> Any:
        if isinstance(value, timedelta):
            if value.days:
                return f"P{value.days}D"
            return f"PT{value.seconds}S" if value.seconds % 60 else f"PT{value.seconds // 60}M"
        return value

    return {camel(name): told(value) for name, value in properties.items()}


def test_the_queues_are_those_that_provisioning_makes() -> None:
    assert resource("servicebus.bicep", "commands").value["properties"] == in_bicep(COMMAND_QUEUE)
    assert resource("servicebus.bicep", "replies").value["properties"] == in_bicep(REPLY_QUEUE)


def test_the_container_is_the_one_that_provisioning_makes() -> None:
    made = resource("cosmos.bicep", "container").value["properties"]["resource"]
    assert made == container_properties("x") | {"id": Name("containerName")}


def test_the_account_has_one_write_region_session_consistency_and_no_keys() -> None:
    account = resource("cosmos.bicep", "account").value["properties"]
    assert account["enableMultipleWriteLocations"] is False
    assert len(account["locations"]) == 1
    assert account["consistencyPolicy"] == {"defaultConsistencyLevel": "Session"}
    assert account["disableLocalAuth"] is True
    assert resource("servicebus.bicep", "namespace").value["properties"]["disableLocalAuth"] is True
    assert resource("storage.bicep", "account").value["properties"]["allowSharedKeyAccess"] is False


def test_what_nobody_needs_is_deleted_by_age_and_claims_as_their_page_says() -> None:
    leases, claims = resource("storage.bicep", "byAge").value["properties"]["policy"]["rules"]
    page = (FOLDER.parents[1] / "docs" / "claim-check.md").read_text(encoding="utf-8")
    written = re.search(r'```json\n(\{\n  "rules".*?)```', page, re.DOTALL)
    assert written is not None
    (rule,) = json.loads(written[1])["rules"]
    rule["definition"]["filters"]["prefixMatch"] = [Text(("", Name("claimsName"), "/"))]
    assert claims == rule
    assert leases["definition"]["filters"]["prefixMatch"] == [Text(("", Name("leaseContainer"), "/"))]
    assert leases["definition"]["actions"]["baseBlob"]["delete"]["daysAfterModificationGreaterThan"] >= 1


def assignments() -> Iterator[tuple[str, str, str, str]]:
    """Who (the property's symbol) has which role on which resource type, of each role assignment."""
    for module in MODULES.values():
        variables = module.named("var")
        for each in module.named("resource").values():
            if each.type.startswith("Microsoft.Authorization/roleAssignments@"):
                properties, scope = each.value["properties"], each.value["scope"]
                call = variables[properties["roleDefinitionId"].symbol].value
                target = module.named("resource")[scope.symbol].type.partition("@")[0]
                yield properties["principalId"].symbol, ROLES[call.arguments[1]], target, scope.symbol


def test_roles_are_given_on_single_queues_and_containers_only() -> None:
    queue = "Microsoft.ServiceBus/namespaces/queues"
    blobs = "Microsoft.Storage/storageAccounts/blobServices/containers"
    worker, producer = "workerPrincipalId", "principalId"
    assert set(assignments()) == {
        (worker, "Azure Service Bus Data Receiver", queue, "commands"),
        (worker, "Azure Service Bus Data Sender", queue, "replies"),
        ("kedaPrincipalId", "Azure Service Bus Data Owner", queue, "commands"),
        (producer, "Azure Service Bus Data Sender", queue, "commands"),
        (producer, "Azure Service Bus Data Receiver", queue, "replies"),
        (worker, "Storage Blob Data Contributor", blobs, "leases"),
        (worker, "Storage Blob Data Contributor", blobs, "claims"),
        (producer, "Storage Blob Data Contributor", blobs, "claims"),
    }


def test_the_role_in_cosmos_db_has_what_a_worker_does_and_nothing_else_for_one_container() -> None:
    role = resource("cosmos.bicep", "role").value["properties"]
    (permission,) = role["permissions"]
    prefix = "Microsoft.DocumentDB/databaseAccounts/"
    assert {action.removeprefix(prefix) for action in permission["dataActions"]} == DATA_ACTIONS
    scope = resource("cosmos.bicep", "assignment").value["properties"]["scope"]
    assert isinstance(scope, Text)
    names = [part for part in scope.parts if isinstance(part, Name)]
    assert names == [Name("account", ("id",)), Name("database", ("name",)), Name("container", ("name",))]
    assert [part for part in scope.parts if isinstance(part, str)] == ["", "/dbs/", "/colls/", ""]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("param a string = 'x", "is not known here"),
        ("resource a 'T@1' = {\n  name: 'x'\n", "ends too soon"),
        ("var a = [1, 2\nvar b = 3", "begins no value|wanted"),
        ("var a = {\n  b: 1\n  b: 2\n}", "stands twice"),
        ("resource a 'T@1' = [for x in y: {}", "wanted"),
        ("variable a = 1", "begins no statement"),
        ("output a string 'x'", "wanted"),
    ],
)
def test_the_reader_refuses_what_is_broken(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.bicep"
    path.write_text(text)
    with pytest.raises(BicepError, match=told):
        read(path)
