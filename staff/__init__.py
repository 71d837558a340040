"""Staff as an audience: the REST API (`api`), logging in, and staff's own accounts in the admin.

May know every room below; of `ingest` it uses the admission, for test runs. Nobody but `photoslot` knows it.
"""
