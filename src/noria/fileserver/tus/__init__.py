"""Resumable uploads at /-/uploads/: tus 1.0.0 (tus.io/protocols/resumable-upload).

May import the rest of `noria.fileserver`, except the application and the server.
"""
