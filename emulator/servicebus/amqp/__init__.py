"""AMQP 1.0 as bytes: types, codec, frames, performatives, message sections. No sockets, no Service Bus.

Written for this server alone and shared with no client, so that a client's mistake cannot hide behind the same
mistake here. Section numbers in docstrings are those of
http://docs.oasis-open.org/amqp/core/v1.0/os/amqp-core-overview-v1.0-os.html.
"""
