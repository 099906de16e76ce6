"""The audit log: the trigger that writes it, its months, and what leaves it. SQL and its callers.

A row says who (`session_user`, which SET ROLE does not change), what, which row, before and after.
Of an update only what changed is kept, and nothing when that is when somebody was seen.
What is secret shows as `***`, so that a change of it still
shows. The correlation id is what the session says (`SET LOCAL dims.correlation_id`): a hint for
reading, no proof.
"""

from __future__ import annotations

from datetime import datetime

import asyncpg

MONTHS_AHEAD = 2

FUNCTIONS = (
    """\
CREATE FUNCTION dims.audit_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $audit$
DECLARE
  -- Arguments: the table (a trigger of a partition only knows the partition), the columns of its
  -- key, the columns that are secret.
  key_columns text[] := string_to_array(TG_ARGV[1], ',');
  secret_columns text[] := string_to_array(TG_ARGV[2], ',');
  old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
  new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
  whole jsonb := coalesce(new_row, old_row);
  shown text[];
BEGIN
  IF coalesce((old_row ->> 'is_secret')::boolean, false)
     OR coalesce((new_row ->> 'is_secret')::boolean, false) THEN
    secret_columns := secret_columns || 'value'::text;
  END IF;
  SELECT array_agg(column_name) INTO shown FROM jsonb_object_keys(whole) AS column_name
   WHERE TG_OP <> 'UPDATE' OR old_row -> column_name IS DISTINCT FROM new_row -> column_name;
  -- When somebody was last seen is no change that anybody has to answer for.
  IF shown IS NULL OR TG_OP = 'UPDATE' AND shown <@ ARRAY['last_seen_at', 'updated_at'] THEN
    RETURN NULL;
  END IF;
  INSERT INTO dims.audit_log
    (bot_id, actor, action, table_name, row_key, before, after, correlation_id)
  SELECT whole ->> 'bot_id', session_user, lower(TG_OP), TG_ARGV[0],
    (SELECT jsonb_object_agg(name, whole -> name) FROM unnest(key_columns) AS name),
    (SELECT jsonb_object_agg(name, CASE WHEN name = ANY (secret_columns)
       AND old_row -> name <> 'null' THEN '"***"' ELSE old_row -> name END)
       FROM unnest(shown) AS name WHERE old_row IS NOT NULL),
    (SELECT jsonb_object_agg(name, CASE WHEN name = ANY (secret_columns)
       AND new_row -> name <> 'null' THEN '"***"' ELSE new_row -> name END)
       FROM unnest(shown) AS name WHERE new_row IS NOT NULL),
    left(nullif(current_setting('dims.correlation_id', true), ''), 64);
  RETURN NULL;
END
$audit$""",
    """\
CREATE FUNCTION dims.make_audit_months(ahead integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $months$
DECLARE
  first timestamptz;
  next timestamptz;
  name text;
  made integer := 0;
BEGIN
  FOR month IN 0 .. ahead LOOP
    first := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => month))
      AT TIME ZONE 'UTC';
    next := ((first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    name := 'audit_log_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
    CONTINUE WHEN to_regclass(format('dims.%I', name)) IS NOT NULL;
    -- Nobody made this month in time: what is in the rest stays there until it is dropped.
    CONTINUE WHEN EXISTS (SELECT FROM dims.audit_log WHERE occurred_at >= first
      AND occurred_at < next AND tableoid = 'dims.audit_log_rest'::regclass);
    EXECUTE format('CREATE TABLE dims.%I PARTITION OF dims.audit_log FOR VALUES FROM (%L) TO (%L)',
      name, first, next);
    EXECUTE format('ALTER TABLE dims.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    made := made + 1;
  END LOOP;
  RETURN made;
END
$months$""",
    """\
CREATE FUNCTION dims.drop_audit_months(ended_by timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $months$
DECLARE
  name text;
  dropped integer := 0;
BEGIN
  FOR name IN SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = oid
    WHERE inhparent = 'dims.audit_log'::regclass AND relname ~ '^audit_log_[0-9]{4}_[0-9]{2}$'
    ORDER BY relname
  LOOP
    CONTINUE WHEN (to_date(right(name, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
      > ended_by;
    EXECUTE format('DROP TABLE dims.%I', name);
    dropped := dropped + 1;
  END LOOP;
  DELETE FROM dims.audit_log WHERE occurred_at < ended_by
    AND tableoid = 'dims.audit_log_rest'::regclass;
  RETURN dropped;
END
$months$""",
)
"""As in the newest revision. No blank lines: they separate statements in files of SQL."""


async def make_months(connection: asyncpg.Connection, ahead: int = MONTHS_AHEAD) -> int:
    """Makes the partitions of this month and `ahead` more, as the owner; how many were missing."""
    made: int = await connection.fetchval("SELECT dims.make_audit_months($1)", ahead)
    return made


async def drop_months(connection: asyncpg.Connection, before: datetime) -> int:
    """Drops all months that ended by then, as the owner; how many those were."""
    dropped: int = await connection.fetchval("SELECT dims.drop_audit_months($1)", before)
    return dropped
