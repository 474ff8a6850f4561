"""What `tools/download.py images` is made of."""
