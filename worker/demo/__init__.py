"""`brook-worker demo`: real commands through the embedded services and a worker, and a check of all that came of it."""
