from typing import Any

from django.db import migrations

# 4×6 inch at 300 dpi: what a booth's dye-sublimation printer takes.
PRINT = {"width": 1800, "height": 1200, "format": "jpeg", "quality": 92}

RECIPES: list[tuple[str, dict[str, Any]]] = [
    ("Black and white film", {"look": "black_and_white"}),
    ("Film noir", {"look": "noir"}),
    ("Sepia", {"look": "sepia"}),
    ("Vintage print", {"look": "vintage"}),
    ("Faded film", {"look": "faded_film", "strength": 85}),
    ("Cinematic", {"look": "cinematic"}),
    ("Vivid party", {"look": "vivid", "strength": 80}),
    ("Warm evening", {"look": "warm"}),
    ("Cool night", {"look": "cool"}),
    ("Soft glow", {"look": "soft_glow"}),
    ("Pencil sketch", {"look": "pencil_sketch"}),
    ("Watercolour", {"look": "watercolour"}),
    ("Comic", {"look": "comic"}),
    ("Poster, 6×4 inch print", {"look": "poster", "output": PRINT}),
    ("Pop art, four times", {"look": "pop_art"}),
]


def create(apps: Any, schema_editor: Any) -> None:
    """slot-001 to slot-015, each with a recipe that works at once."""
    slot = apps.get_model("slots", "Slot")
    for number, (name, recipe) in enumerate(RECIPES, start=1):
        slot.objects.get_or_create(
            id=f"slot-{number:03d}",
            defaults={"name": name, "provider_id": "studio", "operation_id": "image_edit", "settings_json": recipe},
        )


class Migration(migrations.Migration):
    dependencies = [("slots", "0002_history")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
