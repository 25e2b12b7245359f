"""`noria top`: a live view of a process's loops, in a terminal, as text, as JSON or as a page.

Only `app`, `views`, `widgets` and `screens` import textual. May import `sight`, `aio` and `http`.
"""
