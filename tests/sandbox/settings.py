"""The service against the sandbox: a database, files, passwords and keys of its own, all below `var/sandbox`."""

import os
from pathlib import Path

from cryptography.fernet import Fernet

from photoslot import embedded_postgres
from photoslot.embedded_postgres import ACCOUNT, EmbeddedPostgres
from photoslot.environment import generate_secret

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / "var/sandbox"

# Set before the service's own settings read them: no .env may apply here, and no real database may be used.
os.environ |= {
    "DATABASE_URL": "postgres:///",
    "DATABASE_LISTEN_URL": "",
    "SECRET_KEY": generate_secret(HOME / "secret_key"),
    "MEDIA_ROOT": str(HOME / "media"),
    "RUNTIME_CREDENTIALS_FILE": str(HOME / "runtime_credentials.json"),
}
os.environ["FERNET_KEYS"] = generate_secret(HOME / "fernet_key", lambda: Fernet.generate_key().decode())

from photoslot.settings import *  # noqa: E402, F403
from photoslot.settings import DATABASES  # noqa: E402

EMBEDDED_POSTGRES = SERVER = EmbeddedPostgres(ROOT, "sandbox")
DATABASES["default"] |= {
    "NAME": ACCOUNT,
    "USER": ACCOUNT,
    "HOST": SERVER.host,
    "PORT": embedded_postgres.PORT,
}
