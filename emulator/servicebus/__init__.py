"""Embedded Service Bus: a pure engine, an AMQP 1.0 codec, and a thin front that speaks to unmodified clients."""

from emulator.servicebus.admin_server import AdminServer
from emulator.servicebus.front.admin import admin_app
from emulator.servicebus.limits import Limits
from emulator.servicebus.server import ServiceBusServer

__all__ = ["AdminServer", "Limits", "ServiceBusServer", "admin_app"]
