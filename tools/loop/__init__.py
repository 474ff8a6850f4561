"""What tools/datacomp.py is made of."""
