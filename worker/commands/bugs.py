"""What is shown of a bug that ends a command: its traceback, for those who mend it, and no secret in it."""

import sys
import traceback
from collections.abc import Iterable
from types import TracebackType

from worker.redaction import Redactor, Secret
from worker.terminal import visible


def hide_secrets_in_tracebacks(secrets: Iterable[Secret] = ()) -> None:
    """From now on, an error that nobody catches is told without `secrets`, and without what looks like some.

    The text of a library's error may quote what it was given. Calling it again replaces what was set before.
    """
    hide = Redactor(secrets)

    def tell(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if sys.stderr is not None:
            sys.stderr.write(visible(hide("".join(traceback.format_exception(kind, error, where)))))

    sys.excepthook = tell
