"""What a validator of settings raises, so that its sentence reaches staff in their own language."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

CODE = "fault"


def fault(sentence: str, **context: object) -> PydanticCustomError:
    """`sentence` is marked with `gettext_noop`, with `%(name)s` for the context; who shows it translates it.

    A `ValueError`, whose own text is the sentence in English.
    """
    return PydanticCustomError(CODE, "{message}", {"message": sentence % context, "text": sentence, "context": context})
