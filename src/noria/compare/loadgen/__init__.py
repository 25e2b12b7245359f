"""The load generator: compiled clients that measure a server. Imports public noria only."""
