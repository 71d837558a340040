"""Composition: settings, URLs, the ASGI entry, health and metrics, embedded Postgres, `run`, `demo`, `bootstrap`.

It may know every room; none knows it.
"""
