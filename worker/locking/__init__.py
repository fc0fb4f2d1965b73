"""Leases: time-bounded exclusivity over one session's brooks. Never a fence: the ETag on the head is that."""
