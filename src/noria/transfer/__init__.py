"""`noria get` and `noria put`: downloads and uploads that can be resumed.

May import noria.errors, noria.state_directory and noria.http.
"""
