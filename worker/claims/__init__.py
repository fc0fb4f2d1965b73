"""Events that come by claim check: where they are kept, and from there to a command that can be planned."""
