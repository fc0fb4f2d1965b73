"""Where brooks are kept: the port, its Cosmos DB adapter and the in-memory reference."""
