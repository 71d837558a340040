"""How fast and how small the service is, beside the least that any gateway has to do (`make bench`).

Everything runs on loopback, in a temporary folder with its own database, and is removed afterwards:

    booths ──▶ the service (web, worker, Postgres) ──▶ fake_provider     what is measured
    booths ──▶ floor ────────────────────────────────▶ fake_provider     what it is compared with
    booths ──▶ the service ──────────────────────────▶ fake_services     the real adapters (`make bench-providers`)
"""
