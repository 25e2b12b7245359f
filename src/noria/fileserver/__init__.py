"""The file server: download and upload of the files below one directory, over HTTP.

May import `noria.http`, `noria.bus`, `noria.servers`, `noria.aio`, `noria._core.files` and what
these import.
"""
