"""How the process of a worker looks for cyclic garbage."""

import gc
from typing import Final

_YOUNG_MAX: Final = 5_000
"""So many new objects that are still there make Python look through them: the default, 700, is reached several times in
the time that one session takes to open. More would save little, and cost memory."""


def collect_seldom() -> None:
    """From now on, look for garbage less often, and never among what is there already.

    The Azure SDKs leave a few hundred cycles for each session, so garbage must be collected; but by Python's defaults
    that took a sixth of the worker's processor time, in part by going through all modules again and again, a tenth of a
    second at a time in which nothing else went on. Call it once, when everything is imported and open: it is for the
    whole process, and what is there then is kept to its end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX)
