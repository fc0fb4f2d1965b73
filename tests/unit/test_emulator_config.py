"""The official emulator's Config.json: what it means here, and how a wrong one is refused."""

from pathlib import Path

import msgspec
import pytest

from emulator.config import (
    ConfigError,
    CorrelationFilter,
    FalseFilter,
    QueueConfig,
    RuleConfig,
    ServiceBusConfig,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
    TrueFilter,
    load_config,
    parse_config,
)

OFFICIAL = b"""
{
  "UserConfig": {
    "Namespaces": [
      {
        "Name": "sbemulatorns",
        "Queues": [
          {
            "Name": "queue.1",
            "Properties": {
              "DeadLetteringOnMessageExpiration": true,
              "DefaultMessageTimeToLive": "PT1H",
              "DuplicateDetectionHistoryTimeWindow": "PT20S",
              "ForwardDeadLetteredMessagesTo": "",
              "ForwardTo": "",
              "LockDuration": "PT1M30.5S",
              "MaxDeliveryCount": 3,
              "RequiresDuplicateDetection": true,
              "RequiresSession": true
            }
          },
          { "Name": "forever", "Properties": { "DefaultMessageTimeToLive": "P10675199DT2H48M5.4775807S" } }
        ],
        "Topics": [
          {
            "Name": "topic.1",
            "Properties": { "DefaultMessageTimeToLive": "P1DT1H", "RequiresDuplicateDetection": false },
            "Subscriptions": [
              { "Name": "everything" },
              {
                "Name": "some",
                "Properties": { "RequiresSession": true, "MaxDeliveryCount": 2 },
                "Rules": [
                  {
                    "Name": "by-field",
                    "Properties": {
                      "FilterType": "Correlation",
                      "CorrelationFilter": {
                        "ContentType": "application/json", "Label": "subject1",
                        "Properties": { "prop1": "value1", "prop2": 2 }
                      }
                    }
                  },
                  {
                    "Name": "by-sql",
                    "Properties": {
                      "FilterType": "Sql", "SqlFilter": { "SqlExpression": "sys.MessageId = '1' AND a = 'b'" }
                    }
                  },
                  { "Name": "none", "Properties": { "FilterType": "False" } }
                ]
              }
            ]
          }
        ]
      }
    ],
    "Logging": { "Type": "File" }
  }
}
"""


def with_queue(properties: object) -> bytes:
    queue = {"Name": "q", "Properties": properties}
    return msgspec.json.encode({"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [queue]}]}})


def test_official_file_means_what_it_says() -> None:
    assert parse_config(OFFICIAL) == ServiceBusConfig(
        namespace="sbemulatorns",
        queues=(
            QueueConfig(
                name="queue.1",
                requires_session=True,
                lock_duration_s=90.5,
                max_delivery_count=3,
                default_message_ttl_s=3600.0,
                dead_lettering_on_message_expiration=True,
                requires_duplicate_detection=True,
                duplicate_detection_window_s=20.0,
            ),
            QueueConfig(name="forever", default_message_ttl_s=None),
        ),
        topics=(
            TopicConfig(
                name="topic.1",
                default_message_ttl_s=90_000.0,
                subscriptions=(
                    SubscriptionConfig(name="everything", rules=(RuleConfig(filter=TrueFilter()),)),
                    SubscriptionConfig(
                        name="some",
                        requires_session=True,
                        max_delivery_count=2,
                        rules=(
                            RuleConfig(
                                name="by-field",
                                filter=CorrelationFilter(
                                    content_type="application/json",
                                    subject="subject1",
                                    properties={"prop1": "value1", "prop2": 2},
                                ),
                            ),
                            RuleConfig(name="by-sql", filter=SqlFilter("sys.MessageId = '1' AND a = 'b'")),
                            RuleConfig(name="none", filter=FalseFilter()),
                        ),
                    ),
                ),
            ),
        ),
    )


def test_file_is_read_from_disk_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "Config.json"
    path.write_bytes(OFFICIAL)
    assert load_config(path) == parse_config(OFFICIAL)
    with pytest.raises(ConfigError, match=r"absent\.json: No such file or directory; give the path"):
        load_config(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", r"Config\.json: \$: .*; write valid JSON"),
        (b"\xff\xfe", r"Config\.json: \$: .*; write valid JSON"),
        (b"{}", r"missing required field `UserConfig`; add it"),
        (b'{"UserConfig":{"Namespaces":[]}}', r"Namespaces: there are 0, but .* exactly one"),
        (
            with_queue({"RequireSession": True}),
            r"\$\.UserConfig\.Namespaces\[0\]\.Queues\[0\]\.Properties: .*`RequireSession`; did you mean RequiresS",
        ),
        (with_queue({"Zzz": True}), r"unknown field `Zzz`; remove it; known keys are"),
        (with_queue({"LockDuration": "1 minute"}), r"Properties\.LockDuration: .*ISO8601.*; write a duration"),
        (with_queue({"LockDuration": "PT6M"}), r"Queues\[0\]: a lock duration of 360 s .* at most 300 s"),
        (with_queue({"LockDuration": "-PT1S"}), r"a lock duration of -1 s is out of range"),
        (with_queue({"MaxDeliveryCount": "3"}), r"MaxDeliveryCount: Expected `int`, got `str`; correct the value"),
        (with_queue({"MaxDeliveryCount": 0}), r"max delivery count of 0 is out of range; choose 1 to 2000"),
        (with_queue({"DefaultMessageTimeToLive": "PT0S"}), r"time to live of 0 s is out of range"),
        (with_queue({"DuplicateDetectionHistoryTimeWindow": "P8D"}), r"at most 7 days"),
        (with_queue({"ForwardTo": "other"}), r"Properties\.ForwardTo: messages are not forwarded here"),
        (
            b'{"UserConfig":{"Namespaces":[{"Queues":[{"Name":"a"},{"Name":"A"}]}]}}',
            r"Namespaces\[0\]: the entity name 'A' is used twice",
        ),
        (b'{"UserConfig":{"Namespaces":[{"Queues":[{"Name":"a b"}]}]}}', r"Queues\[0\]: 'a b' cannot name a queue"),
    ],
)
def test_wrong_file_is_refused_with_place_fault_and_advice(raw: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)


def rule(properties: object) -> bytes:
    subscription = {"Name": "s", "Rules": [{"Name": "r", "Properties": properties}]}
    topic = {"Name": "t", "Subscriptions": [subscription]}
    return msgspec.json.encode({"UserConfig": {"Namespaces": [{"Topics": [topic]}]}})


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"FilterType": "Sql"}, r"Rules\[0\]\.Properties: FilterType is 'Sql' without its filter"),
        ({"FilterType": "Odd"}, r"FilterType is 'Odd' without its filter; write Sql with SqlFilter"),
        (
            {"SqlFilter": {"SqlExpression": "colour == 'red'"}},
            r"Rules\[0\]\.Properties: the condition \"colour == 'red'\" cannot be understood at character 9",
        ),
        ({"FilterType": "Correlation", "CorrelationFilter": {}}, r"must name at least one property"),
        (
            {"SqlFilter": {"SqlExpression": "1=1"}, "Action": {"SqlExpression": "SET x = 1"}},
            r"Rules\[0\]\.Properties\.Action: rule actions are not carried out here",
        ),
    ],
)
def test_wrong_rule_is_refused_at_its_place(properties: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(rule(properties))


def test_python_structs_refuse_the_same_nonsense() -> None:
    with pytest.raises(ValueError, match="lock duration"):
        QueueConfig(name="q", lock_duration_s=301.0)
    with pytest.raises(ValueError, match="used twice"):
        ServiceBusConfig(queues=(QueueConfig(name="q"),), topics=(TopicConfig(name="Q"),))
