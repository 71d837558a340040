from __future__ import annotations

import asyncio
from typing import Any, get_args
from uuid import uuid4

import pytest
from PIL import Image, ImageChops, ImageStat
from pydantic import ValidationError

from core import images
from photoslot.demo_scene import draw_scene
from providers.base import OperationSettings, PermanentError, Picture, Reason, Request
from providers.studio import ImageEdit, Studio, StyleTransfer
from providers.studio.looks import LOOKS, LookName
from providers.studio.style import to_oklab, to_srgb
from tests.providers.observers import KEYLESS

pytestmark = pytest.mark.unit

SCENE = draw_scene(480, 320)
PHOTO = Picture(images.encode(SCENE, "png"), "image/png")
ORIGINAL = images.decode(PHOTO.data)


def make(settings: OperationSettings, photo: Picture = PHOTO, **templates: Picture) -> Picture:
    async def run() -> Picture:
        studio = Studio(KEYLESS)
        request = Request(uuid4(), "any", settings, photo, templates)
        return await studio.submit_job(await studio.prepare_payload(request))

    return asyncio.run(run())


def distance(left: Image.Image, right: Image.Image) -> float:
    """Mean absolute difference, in levels of 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(left, right)).mean) / 3


def edit(look: LookName, strength: int = 100) -> Image.Image:
    return images.decode(make(ImageEdit(look=look, strength=strength)).data)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_the_picture_and_keeps_its_size(look: LookName) -> None:
    result = edit(look)
    assert result.size == SCENE.size
    assert distance(result, ORIGINAL) > 8


@pytest.mark.parametrize("look", LOOKS)
def test_strength_goes_from_the_photo_to_the_look(look: LookName) -> None:
    distances = [distance(edit(look, strength), ORIGINAL) for strength in (0, 30, 70, 100)]
    assert distances[0] < 2  # JPEG itself costs that much
    assert distances == sorted(distances)
    assert distances[3] > distances[1] + 2


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_is_not_another_look(look: LookName) -> None:
    result = LOOKS[look].apply(SCENE)
    others = [other.apply(SCENE) for name, other in LOOKS.items() if name != look]
    assert min(distance(result, other) for other in others) > 4


@pytest.mark.parametrize("look", LOOKS)
def test_the_same_photo_gives_the_same_picture_and_stays_itself(look: LookName) -> None:
    before = SCENE.tobytes()
    assert LOOKS[look].apply(SCENE).tobytes() == LOOKS[look].apply(SCENE).tobytes()
    assert SCENE.tobytes() == before


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (2, 700)])
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_bears_any_size(look: LookName, size: tuple[int, int]) -> None:
    assert LOOKS[look].apply(Image.new("RGB", size, "orange")).size == size


def test_the_choice_of_looks_is_the_registry() -> None:
    assert set(get_args(LookName)) == set(LOOKS)
    assert len(LOOKS) >= 14


def test_black_and_white_has_no_colour() -> None:
    red, green, blue = LOOKS["black_and_white"].apply(SCENE).split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()


def test_warm_and_cool_go_opposite_ways() -> None:
    def warmth(image: Image.Image) -> float:
        red, _, blue = ImageStat.Stat(image).mean
        return red - blue

    assert warmth(LOOKS["warm"].apply(SCENE)) > warmth(SCENE) + 8
    assert warmth(LOOKS["cool"].apply(SCENE)) < warmth(SCENE) - 8


def test_pop_art_shows_the_picture_four_times() -> None:
    result = LOOKS["pop_art"].apply(SCENE).convert("L")
    quarters = [result.crop((x, y, x + 240, y + 160)) for x in (0, 240) for y in (0, 160)]
    assert len({quarter.tobytes() for quarter in quarters}) == 4


@pytest.mark.parametrize("colour", [(30, 60, 150), (170, 90, 30), (40, 110, 60)])
def test_style_transfer_moves_the_colours_towards_the_style(colour: tuple[int, int, int]) -> None:
    style = ImageChops.multiply(SCENE.convert("L").convert("RGB"), Image.new("RGB", SCENE.size, colour))
    wanted = ImageStat.Stat(style).mean
    result = images.decode(
        make(StyleTransfer(style="mood"), mood=Picture(images.encode(style, "png"), "image/png")).data
    )

    def off(image: Image.Image) -> float:
        return sum(abs(a - b) for a, b in zip(ImageStat.Stat(image).mean, wanted, strict=True))

    assert off(result) < off(ORIGINAL) * 0.55


def test_style_transfer_with_the_photo_itself_changes_little() -> None:
    assert distance(images.decode(make(StyleTransfer(style="self"), self=PHOTO).data), ORIGINAL) < 12


def test_style_transfer_never_turns_light_and_dark_round() -> None:
    steps = Image.linear_gradient("L").convert("RGB")
    style = Picture(images.encode(SCENE, "png"), "image/png")
    result = make(StyleTransfer(style="mood"), Picture(images.encode(steps, "png"), "image/png"), mood=style)
    tones = list(images.decode(result.data).convert("L").resize((1, 32)).tobytes())
    assert tones == sorted(tones)


def test_oklab_and_back() -> None:
    for colour in [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.9, 0.2, 0.1), (0.1, 0.4, 0.8)]:
        assert to_srgb(*to_oklab(*colour)) == pytest.approx(colour, abs=1e-3)


def test_the_answer_is_a_jpeg_and_a_cut_out_stays_one() -> None:
    assert make(ImageEdit(look="sepia")).mime_type == "image/jpeg"
    cut_out = SCENE.copy()
    cut_out.putalpha(Image.linear_gradient("L").resize(SCENE.size))
    result = make(ImageEdit(look="sepia", strength=50), Picture(images.encode(cut_out, "png"), "image/png"))
    assert result.mime_type == "image/png"
    assert images.decode(result.data).getchannel("A").tobytes() == cut_out.getchannel("A").tobytes()


@pytest.mark.parametrize(
    ("settings", "templates", "reason"),
    [
        (ImageEdit(look="noir"), {}, Reason.BAD_PHOTO),
        (StyleTransfer(style="mood"), {}, Reason.BAD_TEMPLATE),
        (StyleTransfer(style="mood"), {"mood": Picture(b"text", "image/png")}, Reason.BAD_TEMPLATE),
    ],
)
def test_what_cannot_be_used_is_named(settings: Any, templates: dict[str, Picture], reason: Reason) -> None:
    photo = Picture(PHOTO.data[:500], "image/png") if reason == Reason.BAD_PHOTO else PHOTO
    with pytest.raises(PermanentError) as caught:
        make(settings, photo, **templates)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("operation_id", "settings", "field"),
    [
        ("image_edit", {}, "look"),
        ("image_edit", {"look": "nicer"}, "look"),
        ("image_edit", {"look": "sepia", "strength": 101}, "strength"),
        ("image_edit", {"look": "sepia", "strength": -1}, "strength"),
        ("image_edit", {"look": "sepia", "strength": "50"}, "strength"),
        ("image_edit", {"look": "sepia", "prompt": "x"}, "prompt"),
        ("style_transfer", {}, "style"),
        ("style_transfer", {"style": "Not a key"}, "style"),
        ("style_transfer", {"style": "mood", "look": "sepia"}, "look"),
    ],
)
def test_settings_are_refused_with_the_field_named(operation_id: str, settings: dict[str, Any], field: str) -> None:
    declared = {operation.id: operation.settings for operation in Studio.operations}
    with pytest.raises(ValidationError) as caught:
        declared[operation_id].model_validate(settings)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_the_json_schema_lists_the_looks() -> None:
    schema = ImageEdit.model_json_schema()
    assert schema["properties"]["look"]["enum"] == list(LOOKS)
    assert schema["required"] == ["look"]
    bounds = {"default": 100, "maximum": 100, "minimum": 0, "type": "integer"}
    assert bounds.items() <= schema["properties"]["strength"].items()


def test_settings_point_to_their_templates() -> None:
    assert StyleTransfer(style="mood", frame="gala").template_keys() == ["mood", "gala"]
