"""`{placeholders}` in a prompt are replaced by the form fields that the booth sent with the photo (contract §8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# The fields of Breeze's programs that describe the guest or the event. Others contain file paths, passwords and hashes
# (`profile`, `status`, `hash`), which a model must not receive.
FIELDS: Final = ("name", "username", "user_id", "id", "model", "time", "eventkitesessionid", "eventkitegalleryid")
SURVEY: Final = re.compile(r"survey\d{1,3}_\w{1,60}", re.ASCII)  # an answer, such as survey1_text_2
MAX_CHARACTERS: Final = 200  # of one value: enough for an answer, too short for a prompt of the guest's own

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z]\w*)\}", re.ASCII)  # other braces are plain text
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")


def find_unknown(text: str) -> list[str]:
    """The placeholders of the text for which booths send no field."""
    names = dict.fromkeys(_PLACEHOLDER.findall(text))
    return [name for name in names if name not in FIELDS and not SURVEY.fullmatch(name)]


def fill(text: str, fields: Mapping[str, str]) -> str:
    """The text with each placeholder replaced by its field's value on one line, or removed if it was not sent."""
    return _PLACEHOLDER.sub(lambda found: _clean(fields.get(found[1], "")), text)


def _clean(value: str) -> str:
    return _CONTROL.sub(" ", value).strip()[:MAX_CHARACTERS]
