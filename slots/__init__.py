"""Slots: the named provider, operation and settings that booths post to, their template images and their history.

May know `providers` and below.
"""
