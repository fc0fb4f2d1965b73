"""docs/telemetry.md says what the code does."""

import re
from pathlib import Path

import msgspec

from worker.configuration import variable
from worker.settings import Settings
from worker.telemetry.endpoint import PATHS
from worker.telemetry.instruments import INSTRUMENTS, VERSION
from worker.telemetry.page import telemetry_page
from worker.telemetry.scaling import Scaling, ScalingSignal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == telemetry_page(), "python -m worker.telemetry.page > docs/telemetry.md"


def test_every_metric_and_each_value_of_its_attributes_is_on_the_page() -> None:
    rows = [line for line in telemetry_page().splitlines() if line.startswith("| `brook.worker.")]
    assert len(rows) == len(INSTRUMENTS)
    for row, one in zip(rows, INSTRUMENTS, strict=True):
        assert row.startswith(f"| `{one.name}`<br>`{one.prometheus_name}` |")
        assert all(f"`{name}`" in row for name in one.attributes)
        values = [value for values in one.attributes.values() for value in values if value != VERSION]
        assert all(f"`{value}`" in row for value in values)


def test_every_path_every_setting_and_every_field_of_the_signal_is_on_the_page() -> None:
    page = telemetry_page()
    assert all(f"| `{path}` |" in page for path in PATHS)
    settings = {variable(field.name) for field in msgspec.structs.fields(Settings)}
    assert set(re.findall(r"BROOK_WORKER_\w+", page)) <= settings
    fields = set(msgspec.json.decode(msgspec.json.encode(ScalingSignal(1).read())))
    assert {field.encode_name for field in msgspec.structs.fields(Scaling)} == fields
    (example,) = [block for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "wanted" in block]
    assert set(msgspec.json.decode(example)) == fields
