"""The sentences, tables and HTML page of `noria compare`.

Imports only its own modules and the extra `cli`.
"""
