"""The producer's and reader's side: send a command and await its reply; read a brook."""
