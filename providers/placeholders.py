"""`{placeholders}` in a prompt: replaced by what the booth sent with the photo (contract §8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# What Breeze's programs send that says something about the guest or the event. Paths of files, passwords and hashes
# of theirs (`profile`, `status`, `hash`) are nothing to tell a model.
FIELDS: Final = ("name", "username", "user_id", "id", "model", "time", "eventkitesessionid", "eventkitegalleryid")
SURVEY: Final = re.compile(r"survey\d{1,3}_\w{1,60}", re.ASCII)  # an answer, such as survey1_text_2
MAX_CHARACTERS: Final = 200  # of one value: an answer, not a prompt of the guest's own

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z]\w*)\}", re.ASCII)  # other braces are only text
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")


def unknown(text: str) -> list[str]:
    """The placeholders of the text that no booth's field stands for."""
    names = dict.fromkeys(_PLACEHOLDER.findall(text))
    return [name for name in names if name not in FIELDS and not SURVEY.fullmatch(name)]


def fill(text: str, fields: Mapping[str, str]) -> str:
    """The text with each placeholder replaced by the field's value on one line; by nothing where it was not sent."""
    return _PLACEHOLDER.sub(lambda found: _value(fields.get(found[1], "")), text)


def _value(given: str) -> str:
    return _CONTROL.sub(" ", given).strip()[:MAX_CHARACTERS]
