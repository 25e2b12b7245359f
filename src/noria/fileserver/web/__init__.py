"""The file server's web page: templates, scripts and styles. Imports `http`."""
