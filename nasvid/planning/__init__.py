"""What a recipe needs before it runs: memory, traffic and time."""
