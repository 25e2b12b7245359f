"""The file server: files go down and up over HTTP, beneath one directory and never outside it."""
