"""Samples of a server's processor time, and the part of the program each belongs to."""
