"""Removing what has expired, on schedule or because staff asked."""
