"""Widgets of `noria top`: lines of figures, a table, the bars at the top and bottom."""
