"""Purging what has expired, on schedule or on request by staff."""
