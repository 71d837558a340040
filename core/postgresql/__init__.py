"""Django's Postgres backend, with connections that are checked before each use without waiting for long (`base`)."""
