"""What `tools/download.py metadata` is made of."""
