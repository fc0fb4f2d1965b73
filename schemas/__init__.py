"""What producers and consumers share with the worker: commands, replies, brook keys and their codec."""
