"""The search inside loops that others own."""
