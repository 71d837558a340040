"""For guests: public links to pictures, the page of a guest's picture, and the temporary files that providers fetch.

May know `jobs` and below.
"""
