"""Everything for staff: the REST API (`api`), logging in, and staff's own accounts in the admin.

May import every room below, and of `ingest` the settings, password and admission. Only `photoslot` imports it.
"""
