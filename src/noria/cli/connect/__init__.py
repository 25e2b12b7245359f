"""`noria connect`: a client at a prompt or in a pipe."""
