"""Slots: the named recipes that booths post to, and the template images that their settings point to.

May know `providers` and the kernel of `photoslot`.
"""
