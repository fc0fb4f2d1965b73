"""Accept sessions, work through their commands group by group, reply and settle."""
