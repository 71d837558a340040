"""The storm's settings: those of the tests, quieter. Ten thousand photos at DEBUG level would measure the disk."""

from tests.settings import *  # noqa: F403
from tests.settings import LOGGING

LOGGING |= {"root": {"handlers": ["kept"], "level": "INFO"}}
LOGGING["loggers"] |= {"httpx": {"level": "WARNING"}}
