"""Reports that a run leaves behind: figures, tables and one self-contained page."""
