"""The service as the bench runs it: everything it writes is in BENCH_ROOT, and its slots use fake providers."""

import os
from base64 import urlsafe_b64encode
from pathlib import Path

from photoslot import embedded_postgres
from photoslot.embedded_postgres import ACCOUNT, EmbeddedPostgres

ROOT = Path(os.environ["BENCH_ROOT"])
POSTGRES = EmbeddedPostgres(ROOT, "bench")

# Settings of the shell or a .env that the bench must neither use nor have change its figures.
for name in (
    "DATABASE_LISTEN_URL",
    "DEBUG",
    "INGEST_DEDUPE_SECONDS",
    "WEB_PROCESSES",
    "SENTRY_DSN",
    "PROVIDER_CATALOGUE_DIR",
):
    os.environ[name] = ""
os.environ["DATABASE_URL"] = "postgres:///"
os.environ["SECRET_KEY"] = "bench only, and long enough to be taken"  # noqa: S105
os.environ["FERNET_KEYS"] = urlsafe_b64encode(b"bench only: 32 bytes, no secret!").decode()
os.environ["MEDIA_ROOT"] = str(ROOT / "media")
os.environ["STATIC_ROOT"] = str(ROOT / "static")  # nothing is collected
(ROOT / "static").mkdir(exist_ok=True)
os.environ["RUNTIME_CREDENTIALS_FILE"] = str(ROOT / "credentials.json")

from photoslot.settings import *  # noqa: E402, F403
from photoslot.settings import DATABASES, LOGGING, PROVIDERS  # noqa: E402

DATABASES["default"] |= {"NAME": ACCOUNT, "USER": ACCOUNT, "HOST": POSTGRES.host, "PORT": embedded_postgres.PORT}
EMBEDDED_POSTGRES = POSTGRES
PROVIDERS = ["bench.provider.Bench", *PROVIDERS]
LOGGING = LOGGING | {"root": {"handlers": ["console"], "level": "WARNING"}}  # between the table's lines, only problems
