"""The booth's door: the form, the checks, the ingest password, the waiting and the answer.

May know `jobs` and below; nobody but `photoslot` knows it.
"""
