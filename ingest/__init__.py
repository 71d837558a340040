"""For booths: the form, admission, the ingest password, waiting for the job, and the response.

May know `jobs` and below; only `photoslot` knows it, and `staff` for its test runs.
"""
