"""Guests as an audience: public links to pictures, temporary files for providers, and the page of a guest's picture.

May know `jobs` and below.
"""
