"""The service as the tests run it: a database and a media folder of its own, and the sandbox's providers."""

import atexit
import os
import shutil
import tempfile
from base64 import urlsafe_b64encode
from pathlib import Path

from photoslot import embedded_postgres
from photoslot.embedded_postgres import ACCOUNT, EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent

# What the shell or a .env says must not reach the tests, least of all a production database.
SERVER = os.environ.get("TEST_POSTGRES", "test")  # a storm has one of its own
TEST_POSTGRES = None if os.environ.get("TEST_DATABASE_URL") else EmbeddedPostgres(ROOT, SERVER)
os.environ.setdefault("WORKER_GRACE_SECONDS", "20")  # tests that leave a held call wait for it at their end
os.environ["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL") or "postgres:///"
os.environ["SECRET_KEY"] = "tests only, and long enough to be taken"
os.environ["FERNET_KEYS"] = urlsafe_b64encode(b"tests only: 32 bytes, no secret!").decode()
if "TEST_FOLDER" not in os.environ:  # set for the processes that the tests start
    os.environ["TEST_FOLDER"] = tempfile.mkdtemp(prefix="photoslot-test-")
    atexit.register(shutil.rmtree, os.environ["TEST_FOLDER"], ignore_errors=True)
RUNNER = os.environ.get("PYTEST_XDIST_WORKER", "alone")  # of those that share the tests: each has its own of everything
LOGS = Path(os.environ["TEST_FOLDER"], RUNNER, "logs")
LOGS.mkdir(parents=True, exist_ok=True)
LOGS.with_name("static").mkdir(exist_ok=True)
os.environ["MEDIA_ROOT"] = str(LOGS.with_name("media"))
os.environ["STATIC_ROOT"] = str(LOGS.with_name("static"))
os.environ["RUNTIME_CREDENTIALS_FILE"] = str(Path(os.environ["MEDIA_ROOT"]) / "secrets/runtime_credentials.json")

from photoslot.settings import *  # noqa: E402, F403
from photoslot.settings import DATABASES, LOGGING, PROVIDERS, STORAGES  # noqa: E402

if TEST_POSTGRES:
    DATABASES["default"] |= {
        "NAME": ACCOUNT,
        "USER": ACCOUNT,
        "HOST": TEST_POSTGRES.host,
        "PORT": embedded_postgres.PORT,
    }
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}  # not hashed
DATABASES["default"]["TEST"] = {"NAME": f"test_photoslot_{RUNNER}"}
if name := os.environ.get("TEST_DATABASE_NAME"):  # in the processes that the tests start
    DATABASES["default"]["NAME"] = name
PROVIDERS[PROVIDERS.index("providers.turbotext.Turbotext")] = "tests.sandbox.providers.QuickTurbotext"
PROVIDERS += [f"tests.sandbox.providers.{name}" for name in ("Instant", "Queued", "Fetching")]
PROVIDERS.append("tests.providers.example_provider.Example")
# A quick one, except where a test is about the slow one.
PASSWORD_HASHERS = [f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("MD5", "PBKDF2")]

# `tests.leaks` reads what every process logs: all of it, also what an operator would have to ask for.
kept = {
    "class": "logging.FileHandler",
    "filename": LOGS / f"{os.getpid()}.log",
    "formatter": "line",
    "filters": ["correlation"],
    "delay": True,
}
console = LOGGING["handlers"]["console"] | {"level": "INFO"}
vendors = {
    name: {"level": "WARNING"} for name in ("openai", "google_genai")
}  # their clients are no part of the service
LOGGING |= {
    "handlers": {"console": console, "kept": kept},
    "root": {"handlers": ["console", "kept"], "level": "DEBUG"},
    "loggers": LOGGING["loggers"] | {"django": {"handlers": [], "level": "DEBUG"}} | vendors,
}
