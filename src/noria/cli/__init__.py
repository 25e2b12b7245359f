"""The commands. ``main`` is the map; each command is a file of its own."""
