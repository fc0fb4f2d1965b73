"""The dead letters of the command queue: finding them, sending them again in order, purging them."""
