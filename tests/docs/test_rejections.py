"""docs/rejections.md has every code once, and says of each whether its message is dead-lettered."""

import ast
import re

from schemas.replies import RejectionCode
from tests.support.pages import ROOT

ROWS = dict(
    re.findall(
        r"^\| `([a-z-]+)` \| .*? \| (completed|dead-lettered) \|",
        (ROOT / "docs" / "rejections.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)


def test_every_code_has_its_row() -> None:
    assert ROWS.keys() == {code.value for code in RejectionCode}


def test_what_is_dead_lettered_is_what_the_worker_dead_letters() -> None:
    """In the intake by `_dead_lettered(delivery, code, …)`, and in the group by `dead_letter(code, …)`."""
    found = set()
    for path in (ROOT / "worker" / "sessions").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("_dead_lettered", "dead_letter"):
                found |= {ast.unparse(one) for one in call.args if "RejectionCode." in ast.unparse(one)}
    codes = {RejectionCode[text.removeprefix("RejectionCode.")].value for text in found}
    # Those that the decoder finds are raised with their code.
    codes |= {"undecodable", "unsupported-content-type", "unknown-version"}
    assert {code for code, then in ROWS.items() if then == "dead-lettered"} == codes
