"""What train.py is made of: its configuration and its callbacks."""
