"""The project: settings, URLs, the ASGI entry; embedded Postgres; the error envelope; `run`, `demo`, `bootstrap`.

The place of composition: it may know every room. Its kernel (`api`, `environment`, `errors`, `images`, `logs`, …) is
known by all rooms and knows none of them.
"""
