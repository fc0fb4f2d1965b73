"""What tests stay together in one process."""

from pathlib import Path

from tests.support.scheduling import ROOT, unit_of


def test_all_tests_on_a_stack_stay_together() -> None:
    files = sorted((ROOT / "tests" / "integration" / "stack").glob("test_*.py"))
    assert len(files) > 1
    assert len({unit_of(f"{file.relative_to(ROOT)}::test_x[a::b]") for file in files}) == 1


def test_tests_that_share_a_modules_set_up_stay_together_and_others_do_not() -> None:
    sharing = "tests/integration/worker/test_worker_failures.py"
    assert "scope=" in (ROOT / sharing).read_text()
    assert unit_of(f"{sharing}::test_a") == unit_of(f"{sharing}::test_b[1]") == sharing
    assert unit_of("/elsewhere/test_x.py::test_a") == "/elsewhere/test_x.py::test_a"
    alone = str(Path(__file__).relative_to(ROOT))
    assert unit_of(f"{alone}::test_a") != unit_of(f"{alone}::test_b")
