"""What operators' commands ask of Azure, beyond what a worker asks."""
