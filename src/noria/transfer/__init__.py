"""The other end of the file server: files fetched and sent, in parts where the way is long."""
