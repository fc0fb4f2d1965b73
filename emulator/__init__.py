"""Embedded Azure: Service Bus, Cosmos DB and Blob Storage in one process, over their real wire protocols.

For machines without Azure or Docker, and for tests that must be able to prove the worker wrong. Every server
listens on 127.0.0.1 only. `docs/emulator.md` says what is covered and what is not.
"""
