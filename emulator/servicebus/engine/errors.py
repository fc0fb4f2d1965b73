"""The refusals of Service Bus: an AMQP condition, the status code of a management reply, and a sentence."""

from emulator.servicebus.amqp.types import AmqpError


class ServiceBusError(AmqpError):
    """A request that the service refuses. Nothing was changed by it."""

    def __init__(self, condition: str, description: str, status: int) -> None:
        super().__init__(condition, description)
        self.status = status


def not_found(path: str) -> ServiceBusError:
    """The entity does not exist."""
    return ServiceBusError("amqp:not-found", f"The messaging entity '{path}' could not be found.", 404)


def not_allowed(description: str) -> ServiceBusError:
    """The entity exists but does not do this."""
    return ServiceBusError("amqp:not-allowed", description, 400)


def invalid_field(description: str) -> ServiceBusError:
    """A field of the request has the wrong type."""
    return ServiceBusError("amqp:invalid-field", description, 400)


def argument_error(description: str) -> ServiceBusError:
    """A value of the request makes no sense."""
    return ServiceBusError("com.microsoft:argument-error", description, 400)


def message_lock_lost() -> ServiceBusError:
    """The message is no longer locked with this token."""
    return ServiceBusError(
        "com.microsoft:message-lock-lost",
        "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the"
        " queue.",
        410,
    )


def session_lock_lost(session_id: str) -> ServiceBusError:
    """The session is no longer held by this receiver."""
    return ServiceBusError(
        "com.microsoft:session-lock-lost",
        f"The session lock was lost. Request a new session receiver. Session: '{session_id}'.",
        410,
    )


def session_cannot_be_locked(session_id: str) -> ServiceBusError:
    """Somebody else holds the session."""
    return ServiceBusError(
        "com.microsoft:session-cannot-be-locked",
        f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver.",
        410,
    )


def message_not_found(sequence_number: int) -> ServiceBusError:
    """No such deferred or scheduled message."""
    return ServiceBusError(
        "com.microsoft:message-not-found",
        f"Failed to lock one or more specified messages: sequence number {sequence_number} does not exist in the"
        " state that this operation needs.",
        404,
    )


def timed_out(timeout_s: float) -> ServiceBusError:
    """No session became available in time."""
    return ServiceBusError(
        "com.microsoft:timeout",
        f"The operation did not complete within the allotted timeout of {timeout_s:g} s: no session is available.",
        408,
    )


def message_too_large(size: int, size_max: int) -> ServiceBusError:
    """A transfer over the limit."""
    return ServiceBusError(
        "amqp:link:message-size-exceeded",
        f"The received message (size {size} bytes) exceeds the limit ({size_max} bytes) currently allowed on the link.",
        400,
    )


def entity_full(path: str, size_bytes: int, size_bytes_max: int) -> ServiceBusError:
    """The entity holds as much as it may; worded as in https://github.com/Azure/azure-service-bus/issues/683."""
    return ServiceBusError(
        "amqp:resource-limit-exceeded",
        f"The maximum entity size has been reached or exceeded for '{path}'. Size of entity in bytes:{size_bytes},"
        f" Max entity size in bytes: {size_bytes_max}. QuotaType: EntitySize",
        403,
    )


def properties_too_large(size_max: int) -> ServiceBusError:
    """All that a message has beside its body is over the limit."""
    return ServiceBusError(
        "amqp:link:message-size-exceeded",
        "A serialization error occurred while processing the message header stream. The serialization process return"
        f" the following message: The size quota for this stream ({size_max}) has been exceeded.",
        400,
    )


def cannot_process() -> ServiceBusError:
    """What the service says of a single property over the limit: it does not tell which."""
    return ServiceBusError(
        "amqp:internal-error", "The service was unable to process the request; please retry the operation.", 500
    )


def already_exists(path: str) -> ServiceBusError:
    """An entity of that name is there."""
    return ServiceBusError("com.microsoft:entity-already-exists", f"The entity '{path}' already exists.", 409)
