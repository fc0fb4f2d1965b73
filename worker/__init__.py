"""The append worker: applies append commands from a Service Bus session queue to brooks in Cosmos DB."""
