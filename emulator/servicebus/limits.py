"""What the server bounds. The defaults are Azure's standard tier where Azure documents a number."""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one server. All can be changed, to test what a client does at a bound."""

    message_bytes_max: int = 262_144
    """Size of one transfer: a message, or a whole batch."""
    frame_bytes_max: int = 65_536
    connections_max: int = 5_000
    sessions_per_connection_max: int = 256
    links_per_connection_max: int = 1_024
    """AMQP sessions and links of one connection; not the sessions of a queue."""
    idle_timeout_s: float = 240.0
    """Advertised to clients; a connection that is silent for one and a half times as long is closed."""
    link_idle_timeout_s: float = 600.0
    """A link on which nothing happened for so long is detached; heartbeats do not count."""
    unlinked_timeout_s: float = 300.0
    never_linked_timeout_s: float = 60.0
    """A connection without a link to an entity is closed: after its last one, and where there never was one."""
    handshake_timeout_s: float = 20.0
    """From accepting a connection to its AMQP open."""
    write_buffer_bytes_max: int = 4_194_304
    """A connection that has this much unsent gets no deliveries and is not read from; ten times as much cuts it."""
    queued_operations_max: int = 1_024
    """Operations that may wait behind an injected latency on one link before the connection is closed."""
    session_accept_timeout_s: float = 65.0
    """How long an acceptor of the next session waits when it names no time itself."""
    session_accept_timeout_max_s: float = 3_600.0
    unsettled_deliveries_max: int = 65_536
    """Deliveries of one AMQP session that wait for a disposition."""
    peek_messages_max: int = 250
    reply_bytes_max: int = 1_048_576
    """Messages in one management reply; a peek returns fewer rather than more."""
    session_id_chars_max: int = 128
    message_id_chars_max: int = 128
    session_state_bytes_max: int = 262_144
