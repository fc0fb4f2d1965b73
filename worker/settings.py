"""Every setting of the worker, in one frozen struct, each with its bounds and its line in docs/settings.md."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from worker.claims.options import ClaimOptions
from worker.credentials import AzureCredential
from worker.errors import SettingsError
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.redaction import Secret
from worker.settings_checks import contradictions

_AUTHORITY: Final = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
"""A host name or address, and perhaps a port, of a URL; whether they are such is looked at later."""

Entity = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,258}[A-Za-z0-9])?\Z", title="the name of a queue or topic")
]
CosmosName = Annotated[
    str,
    Meta(
        pattern=r"^[^/\\?#\x00-\x1f\x7f-\x9f]{0,254}[^/\\?# \x00-\x1f\x7f-\x9f]\Z",
        title=r"1 to 255 characters without / \ ? #",
    ),
]
ContainerName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9](?:-?[a-z0-9]){2,62}\Z",
        max_length=63,
        title="3 to 63 of a-z, 0-9 and single hyphens between them",
    ),
]
Endpoint = Annotated[
    str, Meta(pattern=rf"^https?://{_AUTHORITY}/?\Z", title="a URL such as https://ACCOUNT.documents.azure.com:443/")
]

AdminEndpoint = Annotated[str, Meta(pattern=rf"^http://{_AUTHORITY}/?\Z", title="a URL such as http://127.0.0.1:5300")]
CollectorUrl = Annotated[str, Meta(pattern=rf"^https?://{_AUTHORITY}/?\Z", title="a URL such as http://collector:4318")]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:-]{1,253}\Z", title="a host name or an IP address")]
Namespace = Annotated[
    str,
    Meta(
        pattern=r"^(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?:127\.0\.0\.1|localhost):[0-9]{1,5})\Z",
        title="a host name such as NAME.servicebus.windows.net",
    ),
]
AccountUrl = Annotated[
    str,
    Meta(
        pattern=rf"^https://{_AUTHORITY}(?:/[a-z0-9]{{3,24}})?/?\Z",
        title="a URL such as https://ACCOUNT.blob.core.windows.net",
    ),
]
ClientId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z",
        title="the client id of an identity, a GUID",
    ),
]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker runs with. Made by `worker.configuration.load_settings`.

    Making one checks the settings against each other: SettingsError has a line for each that does not fit.
    Connection strings and keys are `Secret`s, which never show themselves.
    """

    azure_credential: Annotated[
        AzureCredential | None,
        Meta(description="Act as an identity instead of with keys: how its tokens are got, see docs/deploy.md."),
    ] = None
    azure_client_id: Annotated[
        ClientId | None, Meta(description="Which identity, where there are several: of a user-assigned one.")
    ] = None

    servicebus_connection_string: Annotated[
        Secret | None,
        Meta(description="Connection string of the Service Bus namespace (no EntityPath). It or servicebus_namespace."),
    ] = None
    servicebus_namespace: Annotated[
        Namespace | None, Meta(description="The Service Bus namespace, to be used with azure_credential.")
    ] = None
    servicebus_admin_endpoint: Annotated[
        AdminEndpoint | None,
        Meta(description="Management interface of a Service Bus emulator. In Azure it is found by the namespace."),
    ] = None
    command_queue: Annotated[Entity, Meta(description="Session queue that append commands come from.")] = (
        "brook-commands"
    )
    reply_queue: Annotated[
        Entity | None, Meta(description="Queue for replies. Empty, or not set while reply_topic is: none.")
    ] = "brook-replies"
    reply_topic: Annotated[Entity | None, Meta(description="Topic for replies, instead of reply_queue.")] = None
    reply_entities_allowed: Annotated[
        tuple[Entity, ...], Meta(description="Further queues and topics that a command may name as its reply address.")
    ] = ()

    cosmos_endpoint: Annotated[Endpoint, Meta(description="Endpoint of the Cosmos DB account.")]
    cosmos_key: Annotated[Secret | None, Meta(description="Key of the Cosmos DB account. It or azure_credential.")] = (
        None
    )
    cosmos_database: Annotated[CosmosName, Meta(description="Database of the brooks.")] = "brooks"
    cosmos_container: Annotated[CosmosName, Meta(description="Container of the brooks.")] = "events"
    cosmos_timeout_s: Annotated[
        float, Meta(gt=0, le=65, description="How long one Cosmos DB request may stay unanswered.")
    ] = 5.0
    store_attempts_max: Annotated[int, Meta(ge=1, le=100, description="Attempts at one store operation.")] = 6
    store_time_max_s: Annotated[
        float, Meta(gt=0, le=300, description="Time for one store operation, all its attempts together.")
    ] = 20.0

    blob_connection_string: Annotated[
        Secret | None,
        Meta(description="Connection string of the storage account with the leases. It or blob_account_url."),
    ] = None
    blob_account_url: Annotated[
        AccountUrl | None, Meta(description="Blob endpoint of that account, to be used with azure_credential.")
    ] = None
    lease_container: Annotated[ContainerName, Meta(description="Blob container of the leases.")] = "brook-leases"
    lease_duration_s: Annotated[int, Meta(ge=15, le=60, description="How long a lease lasts unless it is renewed.")] = (
        30
    )
    lease_renew_after_s: Annotated[
        float, Meta(gt=0, le=50, description="Age at which a lease is renewed; at least 10 s before its end.")
    ] = 10.0
    lease_acquire_timeout_s: Annotated[
        float, Meta(ge=0, le=300, description="How long to wait for a lease that another worker holds.")
    ] = 15.0

    claim_container: Annotated[
        ContainerName | None,
        Meta(description="Blob container where senders put events that no message holds. Not set: none are taken."),
    ] = None
    claim_bytes_max: Annotated[
        int, Meta(ge=10_000, le=1_000_000_000, description="Size of one blob of events that is read.")
    ] = 100_000_000
    claims_concurrency_max: Annotated[
        int, Meta(ge=1, le=64, description="Such blobs in hand at once, each in a temporary file.")
    ] = 4
    claim_cleanup: Annotated[
        Literal["delete", "keep"],
        Meta(description="Blobs of events once their command is settled: deleted, or kept for a lifecycle rule."),
    ] = "delete"

    auto_provision: Annotated[
        bool, Meta(description="Make missing databases, containers and queues at start. Nothing is ever deleted.")
    ] = False

    max_concurrent_sessions: Annotated[
        int, Meta(ge=1, le=2_000, description="Sessions worked on at once; each holds a connection.")
    ] = 16
    session_buckets: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None,
        Meta(description="Sessions that producers spread their brooks over. Not set: each brook has its own session."),
    ] = None
    session_accept_wait_s: Annotated[
        float, Meta(gt=0, le=60, description="How long one attempt to accept a session waits for one.")
    ] = 5.0
    session_idle_s: Annotated[
        float,
        Meta(gt=0, le=60, description="A session without commands for this long is given back; sooner if others wait."),
    ] = 1.0
    session_hold_max_s: Annotated[
        float, Meta(gt=0, le=3600, description="A session is given back after this long when every slot is busy.")
    ] = 30.0
    session_pause_initial_s: Annotated[
        float,
        Meta(
            gt=0,
            le=300,
            description="Pause after the store or the lease was first found unavailable, or a session lost at once.",
        ),
    ] = 1.0
    session_pause_max_s: Annotated[
        float, Meta(gt=0, le=300, description="The longest such pause; each failure in a row doubles it.")
    ] = 30.0

    group_commands_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="Commands of a session that are committed together. A multiple of 99 fills whole batches.",
        ),
    ] = 198
    group_bytes_max: Annotated[
        int,
        Meta(ge=10_000, le=100_000_000, description="Size of the commands of a session that are received together."),
    ] = 4_000_000
    brooks_concurrency_max: Annotated[
        int, Meta(ge=1, le=256, description="Brooks of one session that are written at once, where it holds several.")
    ] = 16
    batch_operations_max: Annotated[
        int, Meta(ge=2, le=100, description="Operations in one Cosmos DB batch; the service takes 100.")
    ] = 100
    batch_bytes_max: Annotated[
        int, Meta(ge=10_000, le=2_000_000, description="Encoded size of one batch; the service takes 2 MB.")
    ] = 1_800_000
    event_bytes_max: Annotated[
        int, Meta(ge=1_000, le=2_000_000, description="Encoded size of one event's document; the service takes 2 MB.")
    ] = 2_000_000
    events_max: Annotated[int, Meta(ge=1, le=1_000_000, description="Events in one command.")] = 100_000
    command_bytes_max: Annotated[
        int,
        Meta(
            ge=1_000,
            le=104_857_600,
            description="Size of one command's message. Service Bus takes 256 KB; in the premium tier 1 MB, and up to"
            " 100 MB where the queue is set up so: then raise this too. One may take seventy times as much memory.",
        ),
    ] = 1_048_576
    metadata_bytes_max: Annotated[
        int, Meta(ge=100, le=2_000_000, description="Encoded size of one event's metadata.")
    ] = 256_000
    metadata_depth_max: Annotated[
        int, Meta(ge=1, le=64, description="How deeply arrays and objects of an event's metadata may be nested.")
    ] = 16
    recent_commands_max: Annotated[
        int, Meta(ge=1, le=900, description="Command ids kept in the head to answer redeliveries from.")
    ] = 200
    command_lookup: Annotated[
        Literal["always", "redelivered"],
        Meta(
            description="Commands looked up once the head has forgotten them: all, or those redelivered or resubmitted."
        ),
    ] = "always"
    event_id_guard: Annotated[
        bool, Meta(description="Reject commands with an empty event id, or one that occurs twice in it.")
    ] = True
    replans_max: Annotated[
        int, Meta(ge=1, le=1_000, description="How often a group is planned anew when the head has moved meanwhile.")
    ] = 10

    drain_grace_s: Annotated[
        float, Meta(gt=0, le=600, description="Time to finish the groups in hand after SIGTERM or SIGINT.")
    ] = 25.0
    reply_send_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="How long sending the replies of one group may take.")
    ] = 10.0

    http_port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None,
        Meta(
            description="Port of /metrics, /healthz, /readyz and /scaling; 0: any free one. Not set: none. With several"
            " processes, the first one's; each has the next."
        ),
    ] = None
    http_host: Annotated[
        Host, Meta(description="Address to listen on for these; 0.0.0.0 in a container. Whoever can reach it may read.")
    ] = "127.0.0.1"
    otlp_endpoint: Annotated[
        CollectorUrl | None,
        Meta(description="OpenTelemetry collector for metrics and traces, over HTTP. Needs the extra `otlp`."),
    ] = None
    trace_sample_ratio: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of groups that are traced where no producer has decided that."),
    ] = 0.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"], Meta(description="auto: console on a terminal, JSON lines otherwise.")
    ] = "auto"

    def __post_init__(self) -> None:
        """Check the settings against each other."""
        if problems := contradictions(self):
            raise SettingsError(f"{name}: {text}" for name, text in problems)

    def lease_options(self) -> LeaseOptions:
        """What the lease adapters need to know."""
        return LeaseOptions(
            duration_s=self.lease_duration_s,
            renew_after_s=self.lease_renew_after_s,
            acquire_timeout_s=self.lease_acquire_timeout_s,
        )

    def claim_options(self) -> ClaimOptions:
        """What is read of claims, and what becomes of their blobs."""
        return ClaimOptions(
            claim_bytes_max=self.claim_bytes_max,
            claims_concurrency_max=self.claims_concurrency_max,
            deletes=self.claim_cleanup == "delete",
        )

    def limits(self) -> Limits:
        """What one batch may hold."""
        return Limits(
            batch_operations_max=self.batch_operations_max,
            batch_bytes_max=self.batch_bytes_max,
            event_bytes_max=self.event_bytes_max,
            recent_commands_max=self.recent_commands_max,
        )

    def secrets(self) -> tuple[Secret, ...]:
        """All of them, for the log's redactor."""
        given = (self.servicebus_connection_string, self.cosmos_key, self.blob_connection_string)
        return tuple(secret for secret in given if secret is not None)
