"""The error that a validator of settings raises, so that staff read its message in their own language."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

CODE = "fault"


def validation_error(sentence: str, **context: object) -> PydanticCustomError:
    """`sentence` is marked with `gettext_noop` and has `%(name)s` for the context; it is translated when displayed.

    The error is a `ValueError` whose own text is the sentence in English.
    """
    return PydanticCustomError(CODE, "{message}", {"message": sentence % context, "text": sentence, "context": context})
