import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.worker_settings import NOWHERE, worker_settings
from worker.configuration import allowed, load_settings, variable
from worker.errors import SettingsError
from worker.locking.options import LeaseOptions
from worker.redaction import Secret
from worker.settings import Settings
from worker.settings_page import settings_page
from worker.terminal import visible

SERVICEBUS = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=cGxhbnRlZA=="
BLOB = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=cGxhbnRlZA==;EndpointSuffix=core.windows.net"
REQUIRED = {
    "BROOK_WORKER_SERVICEBUS_CONNECTION_STRING": SERVICEBUS,
    "BROOK_WORKER_COSMOS_ENDPOINT": "https://a.documents.azure.com:443/",
    "BROOK_WORKER_COSMOS_KEY": "cGxhbnRlZA==",
    "BROOK_WORKER_BLOB_CONNECTION_STRING": BLOB,
}
SECRET = "cGxhbnRlZA"


def load(file: Path | None = None, **changes: str) -> Settings:
    environ = REQUIRED | {variable(name): value for name, value in changes.items()}
    return load_settings(environ=environ | {"PATH": "/bin"}, config_file=file)


def problems(file: Path | None = None, **changes: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(file, **changes)
    assert SECRET not in str(caught.value)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert not any("\n" in problem for problem in caught.value.problems)
    return caught.value.problems


def problem(file: Path | None = None, **changes: str) -> str:
    [found] = problems(file, **changes)
    return found


def toml(folder: Path, text: str) -> Path:
    path = folder / "worker.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_required_settings_alone_are_enough() -> None:
    settings = load()
    assert settings.cosmos_key == Secret("cGxhbnRlZA==")
    assert (settings.command_queue, settings.reply_queue, settings.reply_topic) == (
        "brook-commands",
        "brook-replies",
        None,
    )
    assert settings.lease_options() == LeaseOptions(duration_s=30, renew_after_s=10, acquire_timeout_s=15)


def test_every_kind_of_value_is_read_from_text() -> None:
    settings = load(
        lease_duration_s=" 60 ",
        session_idle_s="0.5",
        auto_provision="true",
        event_id_guard="0",
        reply_entities_allowed=" one, two ,",
        log_level="debug",
    )
    assert settings.lease_duration_s == 60
    assert settings.session_idle_s == 0.5
    assert (settings.auto_provision, settings.event_id_guard) == (True, False)
    assert settings.reply_entities_allowed == ("one", "two")
    assert settings.log_level == "debug"


def test_the_environment_goes_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = toml(tmp_path, 'replans_max = 3\nlease_duration_s = 40\nreply_entities_allowed = ["x"]\nsession_idle_s = 2')
    settings = load(path, lease_duration_s="50")
    assert (settings.replans_max, settings.lease_duration_s, settings.lease_renew_after_s) == (3, 50, 10)
    assert settings.reply_entities_allowed == ("x",)
    assert settings.session_idle_s == 2.0


def test_the_file_is_found_by_its_variable_and_an_argument_goes_over_it(tmp_path: Path) -> None:
    named = toml(tmp_path, "replans_max = 3")
    other = tmp_path / "other.toml"
    other.write_text("replans_max = 4")
    environ = REQUIRED | {"BROOK_WORKER_CONFIG": str(named)}
    assert load_settings(environ=environ).replans_max == 3
    assert load_settings(environ=environ, config_file=other).replans_max == 4


def test_secrets_may_stand_in_the_file(tmp_path: Path) -> None:
    lines = (f'{name.removeprefix("BROOK_WORKER_").lower()} = "{value}"' for name, value in REQUIRED.items())
    settings = load_settings(environ={}, config_file=toml(tmp_path, "\n".join(lines)))
    assert settings.servicebus_connection_string == Secret(SERVICEBUS)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("lease_duration_s", "5", "BROOK_WORKER_LEASE_DURATION_S: is '5'; use a whole number from 15 to 60"),
        ("lease_duration_s", "30.5", "BROOK_WORKER_LEASE_DURATION_S: is '30.5'; use a whole number from 15 to 60"),
        ("lease_duration_s", "", "BROOK_WORKER_LEASE_DURATION_S: is empty; use a whole number from 15 to 60"),
        ("session_idle_s", "nan", "BROOK_WORKER_SESSION_IDLE_S: is 'nan'; use a number above 0 and at most 60"),
        ("session_idle_s", "inf", "BROOK_WORKER_SESSION_IDLE_S: is 'inf'; use a number above 0 and at most 60"),
        ("session_idle_s", "0", "BROOK_WORKER_SESSION_IDLE_S: is '0'; use a number above 0 and at most 60"),
        ("auto_provision", "yes", "BROOK_WORKER_AUTO_PROVISION: is 'yes'; use true or false"),
        ("log_level", "trace", "BROOK_WORKER_LOG_LEVEL: is 'trace'; use one of debug, error, info, warning"),
        ("command_queue", "a b", "BROOK_WORKER_COMMAND_QUEUE: is 'a b'; use the name of a queue or topic"),
        (
            "reply_entities_allowed",
            "a,b c",
            "BROOK_WORKER_REPLY_ENTITIES_ALLOWED: is 'a,b c'; use a list, each the name of a queue or topic",
        ),
        (
            "lease_container",
            "Brook--x",
            "BROOK_WORKER_LEASE_CONTAINER: is 'Brook--x'; use 3 to 63 of a-z, 0-9 and single hyphens between them",
        ),
        (
            "cosmos_container",
            "a/b",
            r"BROOK_WORKER_COSMOS_CONTAINER: is 'a/b'; use 1 to 255 characters without / \ ? #",
        ),
        (
            "cosmos_endpoint",
            "a.documents.azure.com",
            "BROOK_WORKER_COSMOS_ENDPOINT: is 'a.documents.azure.com'; use a URL such as https://",
        ),
        ("cosmos_key", " ", "BROOK_WORKER_COSMOS_KEY: is missing; set it, or azure_credential to use an identity"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_it_may_be(name: str, value: str, line: str) -> None:
    assert problem(None, **{name: value}).startswith(line)


def test_a_wrong_value_in_the_file_is_named_by_its_key(tmp_path: Path) -> None:
    path = toml(tmp_path, 'lease_duration_s = "30"\nsession_idle_s = nan\nevent_id_guard = 1\ncosmos_key = 5')
    environ = {name: value for name, value in REQUIRED.items() if name != "BROOK_WORKER_COSMOS_KEY"}
    with pytest.raises(SettingsError) as caught:
        load_settings(environ=environ, config_file=path)
    assert caught.value.problems == (
        f"lease_duration_s in {path}: is '30'; use a whole number from 15 to 60",
        f"session_idle_s in {path}: is 'nan'; use a number above 0 and at most 60",
        f"event_id_guard in {path}: is '1'; use true or false",
        f"cosmos_key in {path}: is not text; use the secret as the portal shows it or nothing",
    )


def test_missing_settings_are_all_told() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={})
    assert sorted(line.partition(":")[0] for line in caught.value.problems) == sorted(REQUIRED)
    assert caught.value.problems[0] == (
        "BROOK_WORKER_COSMOS_ENDPOINT: is missing; set it, or cosmos_endpoint in the file that --config or"
        " BROOK_WORKER_CONFIG names"
    )


def test_what_is_missing_is_looked_for_in_the_file_that_was_named(tmp_path: Path) -> None:
    path = toml(tmp_path, "lease_duration_s = 30")
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, config_file=path)
    assert f"BROOK_WORKER_COSMOS_ENDPOINT: is missing; set it, or cosmos_endpoint in {path}" in caught.value.problems


def test_an_unknown_variable_is_an_error_that_guesses_and_never_shows_the_value() -> None:
    assert problem(cosmos_keyy=SECRET) == (
        "BROOK_WORKER_COSMOS_KEYY: is not a setting; did you mean BROOK_WORKER_COSMOS_KEY?"
    )
    assert problem(quux="1") == ("BROOK_WORKER_QUUX: is not a setting; remove it; docs/settings.md lists what there is")


def test_a_variable_in_lower_case_is_not_lost_in_silence() -> None:
    with pytest.raises(SettingsError, match="brook_worker_replans_max: is not a setting; did you mean"):
        load_settings(environ=REQUIRED | {"brook_worker_replans_max": "3"})


def test_an_unknown_key_in_the_file_is_an_error_that_guesses(tmp_path: Path) -> None:
    path = toml(tmp_path, f'lease_duration = 30\n[quux]\ncosmos_key = "{SECRET}"')
    first, second = problems(path)
    assert first == f"lease_duration in {path}: is not a setting; did you mean lease_duration_s?"
    assert second.startswith(f"quux in {path}: is not a setting; ")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    assert problem(absent) == (
        f"--config: cannot read '{absent}' (No such file or directory); give the path of a TOML file"
    )
    assert problem(config=str(absent)).startswith("BROOK_WORKER_CONFIG: cannot read ")
    assert problem(toml(tmp_path, "a = = 1")).endswith("(Invalid value (at line 1, column 5)); mend that line")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'command_queue = "\xe4"')
    assert "is not TOML" in problem(latin)


@pytest.mark.parametrize("content", [None, "# README\n"])
def test_of_a_file_that_cannot_be_read_nothing_is_said_to_be_missing(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "absent.toml" if content is None else toml(tmp_path, f"{content}no toml")
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, config_file=path)
    assert len(caught.value.problems) == 1


def test_all_mistakes_are_told_at_once() -> None:
    told = problems(lease_duration_s="5", quux="1", cosmos_key="", reply_queue="q", reply_topic="t")
    assert [line.partition(":")[0].removeprefix("BROOK_WORKER_") for line in told] == [
        "QUUX",
        "LEASE_DURATION_S",
        "COSMOS_KEY",
        "REPLY_TOPIC",
    ]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"lease_duration_s": "600", "lease_renew_after_s": "25"}, 1),
        ({"reply_topic": "a b"}, 1),
        ({"reply_topic": "a b", "reply_queue": ""}, 1),
        ({"azure_credential": "Managed", "cosmos_key": ""}, 1),
        ({"recent_commands_max": "x", "group_commands_max": "500"}, 1),
        ({"claim_container": "A", "lease_container": "claims"}, 1),
    ],
)
def test_what_cannot_be_read_makes_nothing_else_wrong(changes: dict[str, str], count: int) -> None:
    assert len(problems(None, **changes)) == count


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cosmos_endpoint", "https://a:99999/"),
        ("cosmos_endpoint", "https://a:0"),
        ("cosmos_endpoint", "https://a:b/"),
        ("cosmos_endpoint", "https://[::1/"),
        ("cosmos_endpoint", "https://[:::::]/"),
        ("cosmos_endpoint", "https://a\x1b[31m/"),
        ("otlp_endpoint", "http://collector:70000"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_before_anything_is_opened(name: str, value: str) -> None:
    assert problem(None, **{name: value}).startswith(f"{variable(name)}: is {value!r}")


def test_an_address_may_be_of_ip_version_six() -> None:
    assert load(cosmos_endpoint="https://[::1]:8081/").cosmos_endpoint == "https://[::1]:8081/"


@pytest.mark.parametrize("name", ["command_queue", "lease_container", "cosmos_database", "cosmos_endpoint"])
def test_a_name_in_a_file_may_not_end_with_a_new_line(name: str, tmp_path: Path) -> None:
    value = "https://a" if name == "cosmos_endpoint" else "brooks"
    environ = {other: text for other, text in REQUIRED.items() if other != variable(name)}
    with pytest.raises(SettingsError, match=f"{name} in .*: is '{value}"):
        load_settings(environ=environ, config_file=toml(tmp_path, f'{name} = "{value}\\n"'))


def test_a_password_in_an_address_is_not_shown() -> None:
    assert "is 'http://***@collector:4318'" in problem(otlp_endpoint=f"http://me:{SECRET}@collector:4318")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"AccountEndpoint=https://a.documents.azure.com:443/;AccountKey={SECRET}==;", "is a connection string; give"),
        (f"AccountEndpoint=https://a;AccountKey={SECRET}==", "is a connection string; give"),
        (SECRET, "is no key, which is base64"),
        (f"{SECRET}==%", "is no key, which is base64"),
        (f'"{SECRET}=="', 'begins and ends with "; take these quotes off'),
    ],
)
def test_a_cosmos_key_that_no_request_could_be_signed_with_is_refused_unseen(value: str, reason: str) -> None:
    assert problem(cosmos_key=value).startswith(f"BROOK_WORKER_COSMOS_KEY: {reason}")


def test_a_key_in_the_wrong_place_is_not_shown() -> None:
    key = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
    assert problem(cosmos_endpoint=key).startswith("BROOK_WORKER_COSMOS_ENDPOINT: is '***'; use a URL")
    assert "AccountKey=***" in problem(cosmos_endpoint=f"AccountEndpoint=x;AccountKey={SECRET};")


def test_a_long_value_is_cut() -> None:
    assert len(problem(log_level="x y " * 1_000)) < 200


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (SECRET, "is not a connection string"),
        (f"SharedAccessKeyName=n;SharedAccessKey={SECRET}", "has no Endpoint=sb://"),
        (f"Endpoint=https://a;SharedAccessKeyName=n;SharedAccessKey={SECRET}", "has no Endpoint=sb://"),
        (f"Endpoint=sb://a;SharedAccessKey={SECRET}", "has no SharedAccessKeyName and SharedAccessKey"),
        (f"Endpoint=sb://;SharedAccessKeyName=n;SharedAccessKey={SECRET}", "has no Endpoint=sb://"),
        (f"Endpoint=sb://a b/;SharedAccessKeyName=n;SharedAccessKey={SECRET}", "has no Endpoint=sb://"),
        (f"'{SERVICEBUS}'", "begins and ends with '; take these quotes off"),
        (f"{SERVICEBUS};EntityPath=q", "has an EntityPath"),
        (f"{SERVICEBUS};entitypath=q", "has an EntityPath"),
        (f"{SERVICEBUS};UseDevelopmentEmulator=True", "write it so or drop it"),
        (f"{SERVICEBUS};usedevelopmentemulator=true", "write it so or drop it"),
    ],
)
def test_a_servicebus_connection_string_that_would_fail_later_is_refused_unseen(value: str, reason: str) -> None:
    found = problem(servicebus_connection_string=value)
    assert found.startswith("BROOK_WORKER_SERVICEBUS_CONNECTION_STRING: ")
    assert reason in found


@pytest.mark.parametrize("suffix", ["", ";", ";UseDevelopmentEmulator=true;"])
def test_connection_strings_as_the_portal_shows_them_are_taken(suffix: str) -> None:
    load(servicebus_connection_string=f"{SERVICEBUS}{suffix}")
    load(servicebus_connection_string="Endpoint=sb://a;SharedAccessSignature=SharedAccessSignature sr=a&sig=b&se=1")
    load(blob_connection_string="UseDevelopmentStorage=true")
    load(blob_connection_string="BlobEndpoint=http://127.0.0.1:10000/a;SharedAccessSignature=sv=1&sig=b")
    load(blob_connection_string="BlobEndpoint=http://azurite:10000/a;AccountName=a;AccountKey=Yg==")
    load(blob_connection_string="BlobEndpoint=https://a.blob.core.windows.net;SharedAccessSignature=sv=1&sig=b")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (SECRET, "is not a connection string"),
        ("DefaultEndpointsProtocol=https;AccountName=a", "has no AccountName and AccountKey"),
        (f"AccountKey={SECRET};BlobEndpoint=http://x", "has no AccountName and AccountKey"),
        (f"AccountName=a;AccountKey={SECRET}", "has an AccountKey that is no key, which is base64"),
        (f"'{BLOB}'", "begins and ends with '; take these quotes off"),
        ("SharedAccessSignature=sig=x", "has neither AccountName nor BlobEndpoint"),
        (f"BlobEndpoint=http://a;SharedAccessSignature=sig={SECRET}", "would be sent unencrypted"),
        (f"blobendpoint=HTTP://a;SharedAccessSignature=sig={SECRET}", "would be sent unencrypted"),
        (f"DefaultEndpointsProtocol=http;AccountName=a;SharedAccessSignature={SECRET}", "would be sent unencrypted"),
    ],
)
def test_a_blob_connection_string_that_would_fail_later_is_refused_unseen(value: str, reason: str) -> None:
    found = problem(blob_connection_string=value)
    assert found.startswith("BROOK_WORKER_BLOB_CONNECTION_STRING: ")
    assert reason in found


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"lease_duration_s": "15", "lease_renew_after_s": "6"},
            "BROOK_WORKER_LEASE_RENEW_AFTER_S: is 6; use more than 0 and at most 5",
        ),
        (
            {"lease_duration_s": "15"},
            "BROOK_WORKER_LEASE_RENEW_AFTER_S: is 10; use more than 0 and at most 5",
        ),
        (
            {"claim_container": "brook-leases"},
            "BROOK_WORKER_CLAIM_CONTAINER: is 'brook-leases', where the leases are; senders write there: name another",
        ),
        (
            {"group_commands_max": "201"},
            "BROOK_WORKER_GROUP_COMMANDS_MAX: is 201, more than recent_commands_max = 200; lower it or raise",
        ),
        (
            {"recent_commands_max": "900"},
            "BROOK_WORKER_RECENT_COMMANDS_MAX: is 900: batch_bytes_max must be at least 1,851,392 for these recent",
        ),
        ({"batch_bytes_max": "10000"}, "BROOK_WORKER_RECENT_COMMANDS_MAX: is 200: batch_bytes_max must be at least"),
        ({"cosmos_timeout_s": "30"}, "BROOK_WORKER_COSMOS_TIMEOUT_S: is 30, more than store_time_max_s = 20"),
        ({"session_pause_initial_s": "31"}, "BROOK_WORKER_SESSION_PAUSE_INITIAL_S: is 31, more than"),
        ({"reply_send_timeout_s": "26"}, "BROOK_WORKER_REPLY_SEND_TIMEOUT_S: is 26, more than drain_grace_s = 25"),
        ({"reply_queue": ""}, "BROOK_WORKER_REPLY_TOPIC: is not set, and neither is reply_queue; set one of them"),
        (
            {"reply_queue": "q", "reply_topic": "t"},
            "BROOK_WORKER_REPLY_TOPIC: is 't' while reply_queue is 'q'; set only one of them",
        ),
        (
            {"reply_queue": "Brook-Commands"},
            "BROOK_WORKER_COMMAND_QUEUE: is 'brook-commands', where replies go too; use another queue",
        ),
        (
            {"servicebus_admin_endpoint": "http://127.0.0.1:5300"},
            "BROOK_WORKER_SERVICEBUS_ADMIN_ENDPOINT: is set, but the namespace is not an emulator's; take it out",
        ),
        ({"reply_entities_allowed": "brook-commands"}, "BROOK_WORKER_COMMAND_QUEUE: is 'brook-commands', where"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(changes: dict[str, str], line: str) -> None:
    assert problem(None, **changes).startswith(line)


def test_settings_that_just_fit_are_taken() -> None:
    load(lease_duration_s="15", lease_renew_after_s="5")
    load(group_commands_max="128")
    load(cosmos_timeout_s="20", session_pause_initial_s="30", reply_send_timeout_s="25")


def test_a_reply_topic_alone_turns_the_default_reply_queue_off() -> None:
    settings = load(reply_topic="replies")
    assert (settings.reply_queue, settings.reply_topic) == (None, "replies")


def test_settings_made_in_code_are_checked_against_each_other_too() -> None:
    with pytest.raises(SettingsError, match="lease_renew_after_s: is 25; use more than 0 and at most 20"):
        worker_settings(lease_renew_after_s=25)


def test_secrets_never_show_themselves() -> None:
    settings = load()
    shown: list[Any] = [settings, str(settings), repr(settings.cosmos_key), f"{settings.cosmos_key}"]
    shown.append(msgspec.structs.asdict(settings))
    assert SECRET not in repr(shown)
    with pytest.raises((TypeError, ValueError)):
        msgspec.json.encode(settings.cosmos_key)
    assert [secret.reveal() for secret in settings.secrets()] == [SERVICEBUS, "cGxhbnRlZA==", BLOB]


def test_settings_are_frozen_equal_by_value_and_can_be_sent_to_a_process() -> None:
    assert load() == load()
    assert load() != NOWHERE
    with pytest.raises(AttributeError):
        load().replans_max = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(load())) == load()


def test_every_default_is_allowed_and_every_setting_has_words_for_what_it_may_be() -> None:
    for field in msgspec.structs.fields(Settings):
        assert allowed(field.name)
        if not field.required:
            msgspec.convert(field.default, field.type)


def test_the_page_of_settings_is_up_to_date() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run: python -m worker.settings_page > docs/settings.md"


NASTY = [
    *("", " ", "\t\n", "\x00", "\x1b[2J", "x\ny", "\u202e", "\ud800", "'", '"x"', "=", ";", "a=b;c", "[", "{}", "[]"),
    *("nan", "-inf", "1e400", "-1", "0", "9" * 5_000, "0x10", "true", "null", "None", "x" * 100_000),
    *("http://", "https://[", "https://a:b", "https://a/../b", "sb://a", "..", "/", "\\", "é", "😀", "%00"),
]


def told(**changes: str) -> tuple[str, ...]:
    """What is wrong, or nothing."""
    try:
        load(None, **changes)
    except SettingsError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(Settings)])
def test_whatever_stands_in_a_setting_it_is_taken_or_told_in_lines_that_name_settings(name: str) -> None:
    known = {variable(field.name) for field in msgspec.structs.fields(Settings)}
    for value in NASTY:
        for line in told(**{name: value}):
            setting, _, what = line.partition(": ")
            assert setting in known
            assert what
            assert len(line) < 400
            assert visible(line) == line, "it is shown on a terminal"
            assert "\n" not in line


def test_bytes_that_are_not_utf_8_are_told() -> None:
    assert problem(command_queue="brook-\udce4") == (
        "BROOK_WORKER_COMMAND_QUEUE: has bytes in it that are not UTF-8; use the name of a queue or topic"
    )
