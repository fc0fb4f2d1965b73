"""Cosmos DB (NoSQL API) over REST. `engine` says what Azure does, `server` how it looks on the wire."""

from emulator.cosmos.server import CosmosServer

__all__ = ["CosmosServer"]
