"""What a recipe will need of the devices that it is to run on: memory, traffic, time."""
