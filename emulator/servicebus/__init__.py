"""Embedded Service Bus: a pure engine, an AMQP 1.0 codec, and a thin front that speaks to unmodified clients."""
