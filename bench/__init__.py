"""How quick and how small the service is, beside the least that any gateway has to do (`make bench`).

Everything runs on loopback, in a scratch folder with a database of its own, and is gone afterwards:

    booths ──▶ the service (web, worker, Postgres) ──▶ fake_provider     what is measured
    booths ──▶ floor ────────────────────────────────▶ fake_provider     what it is measured by
    booths ──▶ the service ──────────────────────────▶ fake_services     the real adapters (`make bench-providers`)
"""
