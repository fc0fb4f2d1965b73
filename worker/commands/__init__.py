"""What the subcommands of `brook-worker` do, apart from their options."""
