"""``noria compare files``: the path of a file's bytes from the process to the device, measured."""
