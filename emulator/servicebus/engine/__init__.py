"""What Service Bus does: entities, messages, sessions, locks and time, without sockets.

Time comes from the clock that the engine is given; nothing happens by itself: whoever drives the engine calls
`advance` when `next_deadline_s` has passed.
"""
