from django.db import migrations

# The functions look where this migration looks, and not where the session does that changes a slot: `pg_restore` looks
# nowhere. The path is theirs while they run, so it cannot stay behind in a connection of PgBouncer's.
# `id` and `created_at` never change, `updated_at` always does: they are ignored. Null and not there are the same.
CREATE = """
CREATE FUNCTION slots_record(slot text, old_value jsonb, new_value jsonb) RETURNS void
    LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO slots_slotchange (slot_id, at, username, before, after)
    SELECT slot, clock_timestamp(), NULLIF(current_setting('photoslot.user', true), ''), old_value, new_value
    WHERE old_value IS DISTINCT FROM new_value
$$;

CREATE FUNCTION slots_record_slot() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    ignored text[] := '{id,created_at,updated_at}';
BEGIN
    PERFORM slots_record(
        NEW.id, jsonb_strip_nulls(to_jsonb(OLD) - ignored), jsonb_strip_nulls(to_jsonb(NEW) - ignored)
    );
    RETURN NULL;
END $$;
CREATE TRIGGER slots_record_slot AFTER INSERT OR UPDATE ON slots_slot
    FOR EACH ROW EXECUTE FUNCTION slots_record_slot();

CREATE FUNCTION slots_record_image() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM slots_record(
        coalesce(NEW.slot_id, OLD.slot_id),
        jsonb_strip_nulls(jsonb_build_object(concat('template_media.', OLD.setting_key), OLD.media_id)),
        jsonb_strip_nulls(jsonb_build_object(concat('template_media.', NEW.setting_key), NEW.media_id))
    );
    RETURN NULL;
END $$;
CREATE TRIGGER slots_record_image AFTER INSERT OR UPDATE OR DELETE ON slots_templatebinding
    FOR EACH ROW EXECUTE FUNCTION slots_record_image();
"""
DROP = """
DROP TRIGGER slots_record_image ON slots_templatebinding;
DROP TRIGGER slots_record_slot ON slots_slot;
DROP FUNCTION slots_record_image(), slots_record_slot(), slots_record(text, jsonb, jsonb);
"""


class Migration(migrations.Migration):
    dependencies = [("slots", "0001_initial")]
    operations = [migrations.RunSQL(CREATE, DROP)]
