"""Every string a person sees is in the Russian catalogue, translated, and in the compiled file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import polib
import pytest
from django.conf import settings
from django.utils.translation.template import templatize

pytestmark = [pytest.mark.unit]

ROOT = Path(settings.BASE_DIR)
CATALOGUE = ROOT / "locale/ru/LC_MESSAGES/django.po"
ROOMS = ["photoslot", "staff", "ingest", "guests", "jobs", "stats", "slots", "providers", "core", "templates"]
MARKERS = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy", "pgettext", "pgettext_lazy"}
STORED = (ast.Attribute, ast.Name, ast.Subscript)  # a text that is marked elsewhere, where it is defined


def read_sources() -> Iterator[tuple[Path, str]]:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            yield path, path.read_text()
        for path in (ROOT / room).rglob("*.html"):
            yield path, templatize(path.read_text())


def find_marked_texts(path: Path, text: str) -> Iterator[str]:
    """Yields the texts that are marked for translation."""
    if path.suffix == ".html":  # templatize leaves calls, and blanks out the rest
        for _, quoted in re.findall(r"\b(_|gettext|ngettext)\(\s*(u?'(?:[^'\\]|\\.)*'|u?\"(?:[^\"\\]|\\.)*\")", text):
            yield ast.literal_eval(quoted)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKERS:
            position = 1 if node.func.id.startswith("pgettext") else 0
            if not isinstance(node.args[position], STORED):
                yield ast.literal_eval(node.args[position])


def test_every_marked_text_is_in_the_catalogue() -> None:
    known = {entry.msgid for entry in polib.pofile(str(CATALOGUE)) if not entry.obsolete}
    missing = {text for path, source in read_sources() for text in find_marked_texts(path, source)} - known
    assert not missing


def test_nothing_is_left_untranslated_or_in_doubt() -> None:
    catalogue = polib.pofile(str(CATALOGUE))
    assert [entry.msgid for entry in catalogue.untranslated_entries() + catalogue.fuzzy_entries()] == []


def test_placeholders_are_the_same_in_both_languages() -> None:
    placeholder = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}")
    for entry in polib.pofile(str(CATALOGUE)):
        for translation in entry.msgstr_plural.values() or [entry.msgstr]:
            assert sorted(placeholder.findall(translation)) == sorted(placeholder.findall(entry.msgid)), entry.msgid


def test_the_compiled_file_is_that_of_the_catalogue() -> None:
    compiled = polib.mofile(str(CATALOGUE.with_suffix(".mo")))
    texts = {entry.msgid: (entry.msgstr, entry.msgstr_plural) for entry in polib.pofile(str(CATALOGUE))}
    assert {entry.msgid: (entry.msgstr, entry.msgstr_plural) for entry in compiled} == texts
