"""How Service Bus looks on the wire: AMQP connections, links, claims and management, over the engine."""
