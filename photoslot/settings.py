"""Settings, all from the environment (README, "Settings"). Importing this starts no server and needs no database."""

from __future__ import annotations

import hmac
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from core.database import CONNECT_SECONDS, PEER_TIMEOUTS, BoundedConnection
from photoslot import embedded_postgres
from photoslot.embedded_postgres import ACCOUNT, EmbeddedPostgres
from photoslot.environment import Environment, check_fernet_keys, check_secret_key, generate_secret

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment()
if (BASE_DIR / ".env").exists():
    env.read_env(BASE_DIR / ".env")

DEBUG = env.flag("DEBUG", False)
HOST = env.text("HOST", "0.0.0.0")  # noqa: S104 - booths are other machines
PORT = env.integer("PORT", 8000, 1, 65535)
PUBLIC_BASE_URL = env.text("PUBLIC_BASE_URL", f"http://localhost:{PORT}").rstrip("/")
IS_HTTPS = PUBLIC_BASE_URL.startswith("https://")
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")  # only they say who the client is (X-Forwarded-For, -Proto)
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "*")  # links are built from PUBLIC_BASE_URL, never from the Host header
ADMIN_USERNAMES = env.words("ADMIN_USERNAMES", "serg,igor")
RUNTIME_CREDENTIALS_FILE = env.folder("RUNTIME_CREDENTIALS_FILE", BASE_DIR / "secrets/runtime_credentials.json")

# Database: embedded Postgres unless DATABASE_URL names another. The embedded one's address is known before it runs.
EMBEDDED_POSTGRES = None if env.text("DATABASE_URL") else EmbeddedPostgres(BASE_DIR, "run")
database: dict[str, Any]
if EMBEDDED_POSTGRES:
    database = {
        "NAME": ACCOUNT,
        "USER": ACCOUNT,
        "HOST": EMBEDDED_POSTGRES.host,
        "PORT": embedded_postgres.PORT,
    }
else:
    database = env.db_url_config(env.text("DATABASE_URL"))
    database["HOST"] = unquote(database["HOST"])  # %2Fvar%2Frun%2Fpostgresql is a socket's folder
database["ENGINE"] = "core.postgresql"
database["OPTIONS"] = {
    **PEER_TIMEOUTS,
    **database.get("OPTIONS", {}),
    # Sync views run in many threads, each with its own connection: a pool saves the connect and bounds their number.
    "pool": {
        "connection_class": BoundedConnection,
        "min_size": 0,
        "max_size": 10,
        "timeout": CONNECT_SECONDS,
        "reconnect_timeout": CONNECT_SECONDS,  # then the next caller retries
    },
}
DATABASES = {"default": database}
DATABASE_LISTEN_URL = env.text("DATABASE_LISTEN_URL")  # "off" = polling only
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SECRETS_DIR = BASE_DIR / "secrets"
SECRET_KEY = env.text("SECRET_KEY")
if not SECRET_KEY:
    if not EMBEDDED_POSTGRES and not DEBUG:
        raise ImproperlyConfigured("SECRET_KEY must be set when DATABASE_URL is set and DEBUG is off.")
    SECRET_KEY = generate_secret(SECRETS_DIR / "secret_key")
check_secret_key(SECRET_KEY)
FERNET_KEYS = env.words("FERNET_KEYS", "")  # the first encrypts provider keys, the others still decrypt
if not FERNET_KEYS:
    if not EMBEDDED_POSTGRES and not DEBUG:
        raise ImproperlyConfigured("FERNET_KEYS must be set when DATABASE_URL is set and DEBUG is off.")
    FERNET_KEYS = [generate_secret(SECRETS_DIR / "fernet_key", lambda: Fernet.generate_key().decode())]
check_fernet_keys(FERNET_KEYS)

# The queue and the waiting (contract §2, §4, §10)
QUEUE_MAX_IN_FLIGHT_JOBS = env.integer("QUEUE_MAX_IN_FLIGHT_JOBS", 12, 1, 100_000)
QUEUE_STATEMENT_TIMEOUT_MS = env.integer("QUEUE_STATEMENT_TIMEOUT_MS", 5000, 100, 60_000)
SYNC_RESPONSE_SECONDS = env.integer("SYNC_RESPONSE_SECONDS", 48, 10, 60)  # first-run value; then staff set it
INGEST_MAX_FILE_BYTES = env.integer("INGEST_MAX_FILE_MB", 50, 1, 2048) * 1024 * 1024
INGEST_MAX_PIXELS = env.integer("INGEST_MAX_PIXELS", 100_000_000, 1_000_000, 1_000_000_000)
INGEST_DEDUPE_SECONDS = env.integer("INGEST_DEDUPE_SECONDS", 120, 0, 3600)
INGEST_PASSWORD = env.text("INGEST_PASSWORD")  # first-run value; then staff rotate it
RESULT_RETENTION_HOURS = env.integer("RESULT_RETENTION_HOURS", 72, 1, 720)
LOG_RETENTION_DAYS = env.integer("LOG_RETENTION_DAYS", 400, 1, 3650)
METRICS_TOKEN = env.text("METRICS_TOKEN")

# Processes
WEB_PROCESSES = env.integer("WEB_PROCESSES", 1, 1, 64)
WORKER_CONCURRENCY = env.integer("WORKER_CONCURRENCY", 4, 0, 256)
LEASE_SECONDS = env.integer("LEASE_SECONDS", 8, 1, 60)  # without a heartbeat: what a killed worker costs its jobs
WORKER_GRACE_SECONDS = env.integer("WORKER_GRACE_SECONDS", 60, 0, 300)  # a booth waits no longer

# Providers: the adapters this installation offers, in the order staff see them.
PROVIDERS = [
    "providers.studio.Studio",
    "providers.gemini.Gemini",
    "providers.openai.OpenAI",
    "providers.turbotext.Turbotext",
]
ALLOW_INSECURE_PROVIDERS = env.flag("ALLOW_INSECURE_PROVIDERS", False)  # plain http, and private networks
PROVIDER_CATALOGUE_DIR = env.text("PROVIDER_CATALOGUE_DIR")
PROVIDER_ATTEMPTS = env.integer("PROVIDER_ATTEMPTS", 5, 1, 5)
PROVIDER_RETRY_PAUSE_SECONDS = env.integer("PROVIDER_RETRY_PAUSE_SECONDS", 3, 0, 30)
PROVIDER_CALL_TIMEOUT_SECONDS = env.integer("PROVIDER_CALL_TIMEOUT_SECONDS", 5, 1, 60)

# Files
MEDIA_ROOT = env.folder("MEDIA_ROOT", BASE_DIR / "var/media")
STORAGES = {
    "default": {"BACKEND": "jobs.storage.files.AtomicFileSystemStorage"},
    # Compressed, and named after their content, so that browsers keep them for good.
    "staticfiles": {"BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"},
}
FILE_UPLOAD_TEMP_DIR = MEDIA_ROOT / "tmp"  # on the same file system, so that keeping an upload is a rename
FILE_UPLOAD_PERMISSIONS = 0o640
STATIC_URL = "/static/"
STATIC_ROOT = env.folder("STATIC_ROOT", BASE_DIR / "var/static")  # filled by `collectstatic`

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "photoslot.apps.StaticFilesConfig",
    "axes",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "photoslot",
    "core",
    "providers",
    "slots",
    "stats",
    "jobs",
    "ingest",
    "staff",
]
MIDDLEWARE = [
    "core.errors.EnvelopeMiddleware",  # first, so that it sees the refusals of all the others
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "slots.history.HistoryMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "staff.login.DeviceCookieMiddleware",
    "axes.middleware.AxesMiddleware",
    "staff.login_queue.LoginQueueMiddleware",
]
APPEND_SLASH = False  # booths are never redirected
ROOT_URLCONF = "photoslot.urls"
ASGI_APPLICATION = "photoslot.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
CSRF_TRUSTED_ORIGINS = [PUBLIC_BASE_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_HTTPS
CSRF_COOKIE_HTTPONLY = True  # forms carry the token
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"  # a guest's link is all that it takes to see the picture
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if IS_HTTPS else 0
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # other services may live on sub-domains; they are not ours to bind to https,
    "security.W021",  # nor is the domain ours to have preloaded
    "security.W008",  # TLS ends at the proxy, and booths on the local network are never redirected
]
# Scripts, styles and pictures are our own files; `photoslot.security_headers` has the exceptions.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
LOGIN_URL = "admin:login"

# Logging in, at the admin's page and the API's: guesses are counted in the database.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "staff.login.StaffBackend"]
AXES_HANDLER = "staff.login.FailedLogins"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 10  # as for the ingest password
AXES_CLIENT_IP_CALLABLE = "staff.login.get_client_network"
AXES_COOLOFF_TIME = timedelta(minutes=5)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # or whoever goes on guessing would lock a person out for good
AXES_LOCKOUT_CALLABLE = "staff.login.make_lockout_response"
AXES_SENSITIVE_PARAMETERS = ["username", "csrfmiddlewaretoken"]  # some type the password into the wrong field
AXES_DISABLE_ACCESS_LOG = True  # a row for each login that nothing removes; `last_login` says the last one
AXES_VERBOSE = False

# The staff API (contract §6)
TOKEN_SECONDS = 3600
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(seconds=TOKEN_SECONDS),
    "SIGNING_KEY": hmac.digest(SECRET_KEY.encode(), b"staff tokens", "sha256").hex(),  # good for nothing else
    "USER_ID_FIELD": "username",
    "USER_ID_CLAIM": "sub",
    # Another web host may have issued the token, whose clock is a little ahead. Between hosts that keep time by NTP, a
    # minute is far more than needed, and lengthens a token's hour by no more than that.
    "LEEWAY": timedelta(seconds=60),
    "CHECK_REVOKE_TOKEN": True,  # a token ends when its owner's password is changed
}
REST_FRAMEWORK = {
    # Views subclass those of `staff.api.base`; one that does not lets nobody in.
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_METADATA_CLASS": None,  # the OpenAPI document says it
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "staff.api.exceptions.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "photoslot",
    "DESCRIPTION": (
        "Booths post photos to a slot and get a picture; guests fetch it by link; staff set everything up.\n\n"
        "Staff log in by `POST /api/login` and send the token as `Authorization: Bearer …`. Every error is "
        '`{"error": {"code", "message", "details"}}`: the code is for programs, the message for people, in the '
        "language of `Accept-Language`. Every answer has an `X-Correlation-Id`. Staff's requests must not have fields "
        "or parameters that this document does not name; answers may have more of them one day. Times are ISO 8601 "
        "with their offset. HEAD is answered wherever GET is."
    ),
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVERS": [{"url": "/", "description": "This service"}],
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,  # the words say it
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": ["staff.api.openapi_paths.complete_document"],
    "SWAGGER_UI_DIST": "SIDECAR",  # from our own static files: the page works without the internet
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": False, "validatorUrl": None},
}

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ru", _("Russian"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = "photoslot.formats"

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"correlation": {"()": "core.logs.CorrelationFilter"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name} [{correlation_id}] {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["correlation"]}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "axes": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "psycopg.pool": {"level": "ERROR"},  # the queue says so itself, once
        "django": {"handlers": [], "level": "INFO"},
    },
}
