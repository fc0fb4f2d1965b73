"""The Service Bus entities of a run of tests, in the official emulator's format."""

import json
from typing import Any, Final

from emulator.config import ServiceBusConfig, parse_config

PLACES: Final = 16
"""Each has two queues; the official emulator takes fifty in all."""

TOPIC: Final = "reply-events"
SUBSCRIPTION: Final = "all"
DETECTING_QUEUE: Final = "replies-once"
"""A reply queue that detects duplicates, as a deployment has it; those of places let every repetition through."""

_RECEIVING: Final[dict[str, Any]] = {
    "DeadLetteringOnMessageExpiration": False,
    "DefaultMessageTimeToLive": "PT1H",
    "ForwardDeadLetteredMessagesTo": "",
    "ForwardTo": "",
    "LockDuration": "PT30S",
    "MaxDeliveryCount": 10,
}
"""All keys are written: the official emulator's defaults differ from those of the service."""


def command_queue(place: int) -> str:
    return f"commands-{place}"


def reply_queue(place: int) -> str:
    return f"replies-{place}"


def config_file(places: int = PLACES) -> bytes:
    """The content of Config.json."""
    names = [name(place) for place in range(places) for name in (command_queue, reply_queue)]
    queues = [_queue(name, detects=False) for name in names] + [_queue(DETECTING_QUEUE, detects=True)]
    subscription = {"Name": SUBSCRIPTION, "Properties": {**_RECEIVING, "RequiresSession": False}, "Rules": []}
    topic = {
        "Name": TOPIC,
        "Properties": {
            "DefaultMessageTimeToLive": "PT1H",
            "DuplicateDetectionHistoryTimeWindow": "PT5M",
            "RequiresDuplicateDetection": False,
        },
        "Subscriptions": [subscription],
    }
    namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": [topic]}
    return json.dumps({"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "Console"}}}, indent=1).encode()


def entities() -> ServiceBusConfig:
    """The same, as the embedded service reads it."""
    return parse_config(config_file())


def _queue(name: str, *, detects: bool) -> dict[str, Any]:
    properties = {
        **_RECEIVING,
        "DuplicateDetectionHistoryTimeWindow": "PT5M",
        "RequiresDuplicateDetection": detects,
        "RequiresSession": True,
    }
    return {"Name": name, "Properties": properties}
