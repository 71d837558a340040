from django.db import migrations

# The functions look where this migration looks, and not where the session does that changes a slot: `pg_restore` looks
# nowhere. The path is theirs while they run, so it cannot stay behind in a connection of PgBouncer's.
# `id` and `created_at` never change, `updated_at` always does: they are left aside. Null and not there are the same.
CREATE = """
CREATE FUNCTION slots_note(slot text, was jsonb, becomes jsonb) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO slots_slotchange (slot_id, at, username, before, after)
    SELECT slot, clock_timestamp(), NULLIF(current_setting('photoslot.user', true), ''), was, becomes
    WHERE was IS DISTINCT FROM becomes
$$;

CREATE FUNCTION slots_note_slot() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    aside text[] := '{id,created_at,updated_at}';
BEGIN
    PERFORM slots_note(NEW.id, jsonb_strip_nulls(to_jsonb(OLD) - aside), jsonb_strip_nulls(to_jsonb(NEW) - aside));
    RETURN NULL;
END $$;
CREATE TRIGGER slots_note_slot AFTER INSERT OR UPDATE ON slots_slot
    FOR EACH ROW EXECUTE FUNCTION slots_note_slot();

CREATE FUNCTION slots_note_image() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM slots_note(
        coalesce(NEW.slot_id, OLD.slot_id),
        jsonb_strip_nulls(jsonb_build_object(concat('template_media.', OLD.setting_key), OLD.media_id)),
        jsonb_strip_nulls(jsonb_build_object(concat('template_media.', NEW.setting_key), NEW.media_id))
    );
    RETURN NULL;
END $$;
CREATE TRIGGER slots_note_image AFTER INSERT OR UPDATE OR DELETE ON slots_templatebinding
    FOR EACH ROW EXECUTE FUNCTION slots_note_image();
"""
DROP = """
DROP TRIGGER slots_note_image ON slots_templatebinding;
DROP TRIGGER slots_note_slot ON slots_slot;
DROP FUNCTION slots_note_image(), slots_note_slot(), slots_note(text, jsonb, jsonb);
"""


class Migration(migrations.Migration):
    dependencies = [("slots", "0001_initial")]
    operations = [migrations.RunSQL(CREATE, DROP)]
