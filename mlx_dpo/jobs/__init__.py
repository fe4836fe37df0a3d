"""The long commands: each puts the rooms together, and no room imports it."""
