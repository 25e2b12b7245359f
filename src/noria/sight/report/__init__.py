"""The report of a recording: a page, text, JSON and traces for other viewers.

May import `noria.sight` and `noria._core.recorder`. `page.page` returns the page.
"""
