"""The servers, loads, rows and tables of bench/fileserver.py."""
