"""Files that never block the loop; docs/files.md."""
