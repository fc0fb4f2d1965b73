"""Who may import whom, read from the sources. The rules keep decisions pure and the services replaceable."""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "worker", "brook_client", "emulator")

EMULATOR_STARTERS = ("worker.cli", "worker.demo")
"""The commands that start the embedded services: nothing else may know them."""

AZURE_ADAPTERS = (
    "worker.claims.blob",
    "worker.checks",
    "worker.clients",
    "worker.closing",
    "worker.identity",
    "worker.locking.blob",
    "worker.operations",
    "worker.provisioning",
    "worker.sessions.messages",
    "worker.sessions.receivers",
    "worker.sessions.replies",
    "worker.sessions.servicebus",
    "worker.storage.cosmos",
    "worker.storage.retries",
    "worker.telemetry.transport",
)
IMPURE = frozenset(
    {
        "anyio",
        "asyncio",
        "http",
        "io",
        "logging",
        "os",
        "pathlib",
        "random",
        "secrets",
        "socket",
        "subprocess",
        "threading",
    }
    | {"sys", "tempfile", "time", "uuid"}
)


class Import(NamedTuple):
    """One import as it is written. `lazy` when it stands in a function, or under TYPE_CHECKING."""

    module: str
    line: int
    lazy: bool = False


def imports(source: str, module: str = "", *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, relative ones made absolute; `from a import b` counts as `a.b` too."""
    tree = ast.parse(source)
    later = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    ]
    lazy = {id(inner) for node in later for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, id(node) in lazy)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield Import(whole, node.lineno, id(node) in lazy)
            for name in node.names:
                yield Import(f"{whole}.{name.name}", node.lineno, id(node) in lazy)


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


MODULES = dict(modules())
IMPORTS = {
    name: list(imports(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py"))
    for name, path in MODULES.items()
}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def offences(importers: tuple[str, ...], *, never: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name}:{found.line} imports {found.module}"
        for name in MODULES
        if within(name, *importers) and not within(name, *but)
        for found in IMPORTS[name]
        if within(found.module, *never)
    ]


def beyond(importers: tuple[str, ...], *, allowed: tuple[str, ...]) -> list[str]:
    """Imports of anything but the standard library and `allowed`."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name in MODULES
        if within(name, *importers)
        for found in IMPORTS[name]
        if found.module.partition(".")[0] not in sys.stdlib_module_names and not within(found.module, *allowed)
    ]


def test_the_reader_of_imports_sees_every_way_to_import() -> None:
    source = """
import a.b as c, d
from e.f import g
from . import h
from ..i import j
if True:
    import k
def f():
    from l import m
"""
    found = {(entry.module, entry.lazy) for entry in imports(source, "p.q.r")}
    assert {("a.b", False), ("d", False), ("e.f", False), ("e.f.g", False), ("k", False)} <= found
    assert {("p.q", False), ("p.q.h", False), ("p.i", False), ("p.i.j", False), ("l", True), ("l.m", True)} <= found
    inside = {entry.module for entry in imports("from . import h", "p.q", is_package=True)}
    assert inside == {"p.q", "p.q.h"}


def test_a_rule_that_is_broken_is_found() -> None:
    assert offences(("worker",), never=("azure",)) != []
    assert beyond(("worker.storage",), allowed=("schemas",)) != []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_looked_at(package: str) -> None:
    assert len([name for name in MODULES if within(name, package)]) > 5


def test_schemas_need_msgspec_alone() -> None:
    assert beyond(("schemas",), allowed=("schemas", "msgspec")) == []


def test_the_protocol_is_pure() -> None:
    assert beyond(("worker.protocol",), allowed=("worker.protocol", "schemas", "msgspec")) == []
    # The command that writes the schemas' files is the one part of its package that touches the disk.
    assert offences(("worker.protocol", "schemas"), never=tuple(IMPURE), but=("schemas.export",)) == []
    for name, path in MODULES.items():
        if within(name, "worker.protocol", "schemas"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                assert not isinstance(node, ast.Await | ast.AsyncFunctionDef), f"{name} waits"
                is_clock = isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
                assert not is_clock, f"{name} looks at the clock"


def test_the_ports_know_only_what_they_speak_of() -> None:
    allowed = ("worker.protocol", "schemas", "msgspec")
    assert beyond(("worker.storage.base", "worker.locking.base"), allowed=allowed) == []
    assert beyond(("worker.sessions.base",), allowed=allowed) == []
    assert beyond(("worker.claims.base",), allowed=(*allowed, "worker.storage.base")) == []


COMPOSITION = ("worker.settings", "worker.configuration", "worker.clients", "worker.app", "worker.commands")
"""What knows how a worker is set up, and what is made of it."""


@pytest.mark.parametrize(
    ("layer", "above"),
    [
        (
            "worker.telemetry",
            ("worker.storage", "worker.locking", "worker.claims", "worker.handlers", "worker.sessions"),
        ),
        ("worker.storage", ("worker.locking", "worker.claims", "worker.handlers", "worker.sessions")),
        ("worker.locking", ("worker.storage", "worker.claims", "worker.handlers", "worker.sessions")),
        ("worker.claims", ("worker.locking", "worker.handlers", "worker.sessions")),
        ("worker.sessions", ("worker.deadletters", "worker.operations", "worker.provisioning", "worker.checks")),
    ],
)
def test_no_layer_needs_one_above_it(layer: str, above: tuple[str, ...]) -> None:
    starting = "worker.telemetry.running"  # it starts what the settings ask for
    assert offences((layer,), never=(*above, *COMPOSITION), but=(starting,)) == []


def test_handlers_carry_out_decisions_through_the_ports() -> None:
    allowed = (
        "worker.handlers",
        "worker.guess",
        "worker.protocol",
        "worker.storage.base",
        "worker.locking.base",
        "worker.errors",
        "worker.telemetry",
        "schemas",
        "anyio",
        "msgspec",
    )
    assert beyond(("worker.handlers",), allowed=allowed) == []


def test_the_azure_sdks_are_used_in_the_adapters_alone() -> None:
    assert offences(("worker",), never=("azure",), but=AZURE_ADAPTERS) == []
    assert offences(("schemas",), never=("azure",)) == []


@pytest.mark.parametrize("adapter", AZURE_ADAPTERS)
def test_every_module_that_may_use_the_azure_sdks_does(adapter: str) -> None:
    assert offences((adapter,), never=("azure",)) != [], "take it off the list"


def test_decisions_and_ports_know_nothing_of_opentelemetry() -> None:
    """Metrics are plain numbers wherever they are recorded; spans are made where commands are told of, or sent."""
    spans = ("worker.telemetry", "worker.sessions.outcomes", "worker.logs")
    assert offences(("worker", "schemas"), never=("opentelemetry",), but=spans) == []
    plain = tuple(f"worker.telemetry.{name}" for name in ("kinds", "instruments", "stages", "scaling", "health"))
    assert offences(plain, never=("opentelemetry", "prometheus_client", "azure", "anyio")) == []


def test_the_opentelemetry_sdk_is_needed_only_where_something_is_exported() -> None:
    exporting = ("worker.telemetry.export", "worker.telemetry.endpoint")
    sdk = ("opentelemetry.sdk", "opentelemetry.exporter", "worker.telemetry.export")
    offending = {
        f"{name}:{found.line}"
        for name in MODULES
        if within(name, "worker", "brook_client") and not within(name, *exporting)
        for found in IMPORTS[name]
        if within(found.module, *sdk) and not found.lazy
    }
    assert offending == set()


def test_the_embedded_services_know_neither_the_worker_nor_the_sdks_they_serve() -> None:
    """Sharing code with either side would hide mistakes that both have in common."""
    assert offences(("emulator",), never=("worker", "brook_client", "schemas", "azure")) == []


def test_only_the_commands_that_start_the_embedded_services_know_them() -> None:
    assert offences(("worker", "brook_client", "schemas"), never=("emulator",), but=EMULATOR_STARTERS) == []


def test_the_command_line_runs_without_what_the_embedded_services_need() -> None:
    eager = [
        found for found in IMPORTS["worker.cli"] if within(found.module, "emulator", "worker.demo") and not found.lazy
    ]
    assert eager == []


def test_the_client_takes_from_the_worker_only_how_to_read_and_how_to_close() -> None:
    taken = {
        found.module
        for name in MODULES
        if within(name, "brook_client")
        for found in IMPORTS[name]
        if within(found.module, "worker")
    }
    assert {module for module in taken if not within(module, "worker.storage.base", "worker.closing")} == set()
    assert offences(("worker",), never=("brook_client",), but=("worker.commands", "worker.demo")) == []


def test_nothing_that_is_installed_needs_what_is_not() -> None:
    assert offences(PACKAGES, never=("tests", "bench", "docsite", "examples", "pytest", "hypothesis")) == []


def module_of(found: Import) -> str:
    """The module of ours that an import names; empty for one of others."""
    name = found.module
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def circles(needed: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that need each other, a circle a line."""
    found = []
    done: set[str] = set()

    def look(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            found.append(" -> ".join((*way[way.index(name) :], name)))
        elif name not in done:
            for other in sorted(needed.get(name, ())):
                look(other, (*way, name))
            done.add(name)

    for name in sorted(needed):
        look(name, ())
    return found


def test_a_circle_is_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]}) == ["b -> c -> b"]


def test_no_module_needs_itself_by_way_of_others() -> None:
    """But for what is imported late, and for packages, which name what is in them."""
    modules = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    needed = {name: {module_of(found) for found in IMPORTS[name] if not found.lazy} & modules for name in modules}
    assert circles({name: others - {name} for name, others in needed.items()}) == []
