CREATE FUNCTION dims.current_bot() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN starts_with(session_user::text, '@prefix@_bot_')
  THEN substr(session_user::text, length('@prefix@_bot_') + 1) END

GRANT EXECUTE ON FUNCTION dims.current_bot() TO "@prefix@_bot", "@prefix@_operator", "@prefix@_auditor"

CREATE TABLE dims.analytics_events (
  bot_id TEXT COLLATE "C" NOT NULL,
  event_id UUID DEFAULT gen_random_uuid() NOT NULL,
  occurred_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  kind TEXT NOT NULL,
  level TEXT DEFAULT 'info' NOT NULL,
  user_id BIGINT,
  chat_id BIGINT,
  data JSONB DEFAULT '{}'::jsonb NOT NULL,
  correlation_id TEXT,
  CONSTRAINT analytics_events_pkey PRIMARY KEY (bot_id, occurred_at, event_id),
  CONSTRAINT analytics_events_level_check CHECK (level IN ('debug', 'info', 'warning', 'error'))
)
 PARTITION BY HASH (bot_id)

CREATE INDEX analytics_events_errors_idx ON dims.analytics_events (bot_id, occurred_at DESC) WHERE level = 'error'

CREATE INDEX analytics_events_kind_idx ON dims.analytics_events (bot_id, kind, occurred_at DESC)

ALTER TABLE dims.analytics_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.analytics_events_p@n@ PARTITION OF dims.analytics_events FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.analytics_events_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.audit_log (
  bot_id TEXT COLLATE "C" NOT NULL,
  occurred_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  audit_id UUID DEFAULT gen_random_uuid() NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  table_name TEXT NOT NULL,
  row_key JSONB NOT NULL,
  before JSONB,
  after JSONB,
  correlation_id TEXT,
  CONSTRAINT audit_log_pkey PRIMARY KEY (bot_id, occurred_at, audit_id),
  CONSTRAINT audit_log_action_check CHECK (action IN ('insert', 'update', 'delete'))
)
 PARTITION BY RANGE (occurred_at)

CREATE INDEX audit_log_correlation_idx ON dims.audit_log (correlation_id) WHERE correlation_id IS NOT NULL

CREATE INDEX audit_log_row_idx ON dims.audit_log (bot_id, table_name, row_key, occurred_at DESC)

ALTER TABLE dims.audit_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.audit_log_rest PARTITION OF dims.audit_log DEFAULT

ALTER TABLE dims.audit_log_rest ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.bot_settings (
  bot_id TEXT COLLATE "C" NOT NULL,
  key TEXT NOT NULL,
  value JSONB NOT NULL,
  is_secret BOOLEAN DEFAULT false NOT NULL,
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT bot_settings_pkey PRIMARY KEY (bot_id, key)
)
 PARTITION BY HASH (bot_id)

ALTER TABLE dims.bot_settings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.bot_settings_p@n@ PARTITION OF dims.bot_settings FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.bot_settings_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.bots (
  bot_id TEXT COLLATE "C" NOT NULL,
  telegram_id BIGINT,
  username TEXT,
  name TEXT DEFAULT '' NOT NULL,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT bots_pkey PRIMARY KEY (bot_id),
  CONSTRAINT bots_bot_id_check CHECK (bot_id ~ '^[a-z][a-z0-9_-]{0,31}$')
)
 PARTITION BY HASH (bot_id)

ALTER TABLE dims.bots ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.bots_p@n@ PARTITION OF dims.bots FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.bots_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.chats (
  bot_id TEXT COLLATE "C" NOT NULL,
  chat_id BIGINT NOT NULL,
  kind TEXT NOT NULL,
  title TEXT,
  username TEXT,
  has_left BOOLEAN DEFAULT false NOT NULL,
  data JSONB DEFAULT '{}'::jsonb NOT NULL,
  first_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  last_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT chats_pkey PRIMARY KEY (bot_id, chat_id),
  CONSTRAINT chats_kind_check CHECK (kind IN ('private', 'group', 'supergroup', 'channel'))
)
 PARTITION BY HASH (bot_id)

CREATE INDEX chats_last_seen_idx ON dims.chats (bot_id, last_seen_at DESC)

ALTER TABLE dims.chats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.chats_p@n@ PARTITION OF dims.chats FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.chats_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.conversations (
  bot_id TEXT COLLATE "C" NOT NULL,
  conversation_id UUID DEFAULT gen_random_uuid() NOT NULL,
  chat_id BIGINT NOT NULL,
  user_id BIGINT,
  persona TEXT,
  status TEXT DEFAULT 'open' NOT NULL,
  state JSONB DEFAULT '{}'::jsonb NOT NULL,
  started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  ended_at TIMESTAMP WITH TIME ZONE,
  CONSTRAINT conversations_pkey PRIMARY KEY (bot_id, conversation_id),
  CONSTRAINT conversations_status_check CHECK (status IN ('open', 'closed'))
)
 PARTITION BY HASH (bot_id)

CREATE INDEX conversations_chat_idx ON dims.conversations (bot_id, chat_id, updated_at DESC)

CREATE INDEX conversations_open_idx ON dims.conversations (bot_id, updated_at DESC) WHERE status = 'open'

ALTER TABLE dims.conversations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.conversations_p@n@ PARTITION OF dims.conversations FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.conversations_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.entities (
  bot_id TEXT COLLATE "C" NOT NULL,
  entity_id BIGINT NOT NULL,
  access_hash BIGINT NOT NULL,
  username TEXT,
  phone TEXT,
  name TEXT,
  seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT entities_pkey PRIMARY KEY (bot_id, entity_id)
)
 PARTITION BY HASH (bot_id)

CREATE INDEX entities_phone_idx ON dims.entities (bot_id, phone) WHERE phone IS NOT NULL

CREATE INDEX entities_username_idx ON dims.entities (bot_id, lower(username)) WHERE username IS NOT NULL

ALTER TABLE dims.entities ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.entities_p@n@ PARTITION OF dims.entities FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.entities_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.inbox (
  bot_id TEXT COLLATE "C" NOT NULL,
  inbox_id BIGINT NOT NULL,
  dedupe_key TEXT NOT NULL,
  entity_id BIGINT DEFAULT 0 NOT NULL,
  pts INTEGER,
  pts_count INTEGER,
  kind TEXT NOT NULL,
  layer SMALLINT NOT NULL,
  payload BYTEA NOT NULL,
  status TEXT DEFAULT 'new' NOT NULL,
  attempts SMALLINT DEFAULT 0 NOT NULL,
  received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  available_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  finished_at TIMESTAMP WITH TIME ZONE,
  last_error TEXT,
  correlation_id TEXT,
  CONSTRAINT inbox_pkey PRIMARY KEY (bot_id, inbox_id),
  CONSTRAINT inbox_dedupe_key_key UNIQUE (bot_id, dedupe_key),
  CONSTRAINT inbox_status_check CHECK (status IN ('new', 'running', 'done', 'dead'))
)
 PARTITION BY HASH (bot_id)

CREATE INDEX inbox_dead_idx ON dims.inbox (bot_id, received_at DESC) WHERE status = 'dead'

CREATE INDEX inbox_done_idx ON dims.inbox (bot_id, finished_at) WHERE status = 'done'

CREATE INDEX inbox_due_idx ON dims.inbox (bot_id, available_at, inbox_id) WHERE status IN ('new', 'running')

ALTER TABLE dims.inbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.inbox_p@n@ PARTITION OF dims.inbox FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.inbox_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.messages (
  bot_id TEXT COLLATE "C" NOT NULL,
  chat_id BIGINT NOT NULL,
  message_id BIGINT NOT NULL,
  conversation_id UUID,
  sender_id BIGINT,
  is_outgoing BOOLEAN DEFAULT false NOT NULL,
  text TEXT DEFAULT '' NOT NULL,
  media JSONB,
  reply_to_id BIGINT,
  sent_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  edited_at TIMESTAMP WITH TIME ZONE,
  deleted_at TIMESTAMP WITH TIME ZONE,
  CONSTRAINT messages_pkey PRIMARY KEY (bot_id, chat_id, message_id)
)
 PARTITION BY HASH (bot_id)

CREATE INDEX messages_chat_sent_idx ON dims.messages (bot_id, chat_id, sent_at DESC)

CREATE INDEX messages_conversation_idx ON dims.messages (bot_id, conversation_id, sent_at) WHERE conversation_id IS NOT NULL

CREATE INDEX messages_sent_idx ON dims.messages (bot_id, sent_at DESC)

ALTER TABLE dims.messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.messages_p@n@ PARTITION OF dims.messages FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.messages_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.outbox (
  bot_id TEXT COLLATE "C" NOT NULL,
  outbox_id BIGINT NOT NULL,
  random_id BIGINT NOT NULL,
  inbox_id BIGINT,
  chat_id BIGINT,
  method TEXT NOT NULL,
  layer SMALLINT NOT NULL,
  payload BYTEA NOT NULL,
  priority SMALLINT DEFAULT 0 NOT NULL,
  status TEXT DEFAULT 'pending' NOT NULL,
  attempts SMALLINT DEFAULT 0 NOT NULL,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  available_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  sent_at TIMESTAMP WITH TIME ZONE,
  message_id BIGINT,
  last_error TEXT,
  correlation_id TEXT,
  CONSTRAINT outbox_pkey PRIMARY KEY (bot_id, outbox_id),
  CONSTRAINT outbox_random_id_key UNIQUE (bot_id, random_id),
  CONSTRAINT outbox_status_check CHECK (status IN ('pending', 'sending', 'sent', 'dead'))
)
 PARTITION BY HASH (bot_id)

CREATE INDEX outbox_dead_idx ON dims.outbox (bot_id, created_at DESC) WHERE status = 'dead'

CREATE INDEX outbox_due_idx ON dims.outbox (bot_id, priority, available_at, outbox_id) WHERE status IN ('pending', 'sending')

CREATE INDEX outbox_sent_idx ON dims.outbox (bot_id, sent_at) WHERE status = 'sent'

ALTER TABLE dims.outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.outbox_p@n@ PARTITION OF dims.outbox FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.outbox_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.personas (
  bot_id TEXT COLLATE "C" NOT NULL,
  name TEXT NOT NULL,
  prompt TEXT DEFAULT '' NOT NULL,
  settings JSONB DEFAULT '{}'::jsonb NOT NULL,
  is_active BOOLEAN DEFAULT false NOT NULL,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT personas_pkey PRIMARY KEY (bot_id, name)
)
 PARTITION BY HASH (bot_id)

CREATE UNIQUE INDEX personas_active_key ON dims.personas (bot_id) WHERE is_active

ALTER TABLE dims.personas ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.personas_p@n@ PARTITION OF dims.personas FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.personas_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.sessions (
  bot_id TEXT COLLATE "C" NOT NULL,
  dc_id SMALLINT NOT NULL,
  server_address TEXT NOT NULL,
  port INTEGER NOT NULL,
  auth_key BYTEA,
  takeout_id BIGINT,
  is_main BOOLEAN DEFAULT false NOT NULL,
  epoch BIGINT DEFAULT 0 NOT NULL,
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT sessions_pkey PRIMARY KEY (bot_id, dc_id),
  CONSTRAINT sessions_auth_key_check CHECK (auth_key IS NULL OR octet_length(auth_key) >= 256)
)
 PARTITION BY HASH (bot_id)

CREATE UNIQUE INDEX sessions_main_key ON dims.sessions (bot_id) WHERE is_main

ALTER TABLE dims.sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.sessions_p@n@ PARTITION OF dims.sessions FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.sessions_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.update_state (
  bot_id TEXT COLLATE "C" NOT NULL,
  entity_id BIGINT NOT NULL,
  pts INTEGER NOT NULL,
  qts INTEGER DEFAULT 0 NOT NULL,
  seq INTEGER DEFAULT 0 NOT NULL,
  state_date TIMESTAMP WITH TIME ZONE,
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT update_state_pkey PRIMARY KEY (bot_id, entity_id)
)
 PARTITION BY HASH (bot_id)

ALTER TABLE dims.update_state ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.update_state_p@n@ PARTITION OF dims.update_state FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.update_state_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.users (
  bot_id TEXT COLLATE "C" NOT NULL,
  user_id BIGINT NOT NULL,
  username TEXT,
  first_name TEXT DEFAULT '' NOT NULL,
  last_name TEXT,
  language TEXT,
  is_bot BOOLEAN DEFAULT false NOT NULL,
  has_blocked BOOLEAN DEFAULT false NOT NULL,
  data JSONB DEFAULT '{}'::jsonb NOT NULL,
  first_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  last_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  CONSTRAINT users_pkey PRIMARY KEY (bot_id, user_id)
)
 PARTITION BY HASH (bot_id)

CREATE INDEX users_last_seen_idx ON dims.users (bot_id, last_seen_at DESC)

CREATE INDEX users_username_idx ON dims.users (bot_id, lower(username)) WHERE username IS NOT NULL

ALTER TABLE dims.users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

CREATE TABLE dims.users_p@n@ PARTITION OF dims.users FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)

ALTER TABLE dims.users_p@n@ ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY

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
$audit$

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
$months$

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
$months$

SELECT dims.make_audit_months(2)

CREATE POLICY tenant ON dims.analytics_events AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.analytics_events AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.analytics_events AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT ON dims.analytics_events TO "@prefix@_bot"

GRANT SELECT ON dims.analytics_events TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.analytics_events
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('analytics_events', 'bot_id,occurred_at,event_id', '')

CREATE POLICY tenant ON dims.audit_log AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.audit_log AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.audit_log AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY auditor ON dims.audit_log AS PERMISSIVE FOR ALL TO "@prefix@_auditor"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT ON dims.audit_log TO "@prefix@_operator"

GRANT SELECT ON dims.audit_log TO "@prefix@_auditor"

CREATE POLICY tenant ON dims.bot_settings AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.bot_settings AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.bot_settings AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.bot_settings TO "@prefix@_bot"

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.bot_settings TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.bot_settings
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('bot_settings', 'bot_id,key', '')

CREATE POLICY tenant ON dims.bots AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.bots AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.bots AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY auditor ON dims.bots AS PERMISSIVE FOR ALL TO "@prefix@_auditor"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, UPDATE (telegram_id, username, name, updated_at) ON dims.bots TO "@prefix@_bot"

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.bots TO "@prefix@_operator"

GRANT SELECT ON dims.bots TO "@prefix@_auditor"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.bots
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('bots', 'bot_id', '')

CREATE POLICY tenant ON dims.chats AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.chats AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.chats AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.chats TO "@prefix@_bot"

GRANT SELECT ON dims.chats TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT ON dims.chats
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('chats', 'bot_id,chat_id', '')

CREATE TRIGGER audit_2 AFTER UPDATE OR DELETE ON dims.chats
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('chats', 'bot_id,chat_id', '')

CREATE POLICY tenant ON dims.conversations AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.conversations AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.conversations AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.conversations TO "@prefix@_bot"

GRANT SELECT ON dims.conversations TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT ON dims.conversations
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('conversations', 'bot_id,conversation_id', '')

CREATE TRIGGER audit_2 AFTER UPDATE OR DELETE ON dims.conversations
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('conversations', 'bot_id,conversation_id', '')

CREATE POLICY tenant ON dims.entities AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.entities AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.entities AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.entities TO "@prefix@_bot"

GRANT SELECT (bot_id, entity_id, username, phone, name, seen_at) ON dims.entities TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.entities
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('entities', 'bot_id,entity_id', 'access_hash')

CREATE POLICY tenant ON dims.inbox AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.inbox AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.inbox AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.inbox TO "@prefix@_bot"

GRANT SELECT (bot_id, inbox_id, dedupe_key, entity_id, pts, pts_count, kind, layer, status, attempts, received_at, available_at, finished_at, last_error, correlation_id), UPDATE (status, attempts, available_at) ON dims.inbox TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.inbox
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('inbox', 'bot_id,inbox_id', 'payload')

CREATE POLICY tenant ON dims.messages AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.messages AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.messages AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.messages TO "@prefix@_bot"

GRANT SELECT ON dims.messages TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT ON dims.messages
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('messages', 'bot_id,chat_id,message_id', '')

CREATE TRIGGER audit_2 AFTER UPDATE OR DELETE ON dims.messages
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('messages', 'bot_id,chat_id,message_id', '')

CREATE POLICY tenant ON dims.outbox AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.outbox AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.outbox AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.outbox TO "@prefix@_bot"

GRANT SELECT (bot_id, outbox_id, random_id, inbox_id, chat_id, method, layer, priority, status, attempts, created_at, available_at, sent_at, message_id, last_error, correlation_id), UPDATE (status, attempts, available_at) ON dims.outbox TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.outbox
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('outbox', 'bot_id,outbox_id', 'payload')

CREATE POLICY tenant ON dims.personas AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.personas AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.personas AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.personas TO "@prefix@_bot"

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.personas TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.personas
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('personas', 'bot_id,name', '')

CREATE POLICY tenant ON dims.sessions AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.sessions AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.sessions AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.sessions TO "@prefix@_bot"

GRANT SELECT (bot_id, dc_id, server_address, port, takeout_id, is_main, epoch, updated_at) ON dims.sessions TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.sessions
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('sessions', 'bot_id,dc_id', 'auth_key')

CREATE POLICY tenant ON dims.update_state AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.update_state AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.update_state AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.update_state TO "@prefix@_bot"

GRANT SELECT ON dims.update_state TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT OR UPDATE OR DELETE ON dims.update_state
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('update_state', 'bot_id,entity_id', '')

CREATE POLICY tenant ON dims.users AS PERMISSIVE FOR ALL TO PUBLIC
  USING (bot_id = (SELECT dims.current_bot()))
  WITH CHECK (bot_id = (SELECT dims.current_bot()))

CREATE POLICY owner ON dims.users AS PERMISSIVE FOR ALL TO "@prefix@_owner"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

CREATE POLICY operator ON dims.users AS PERMISSIVE FOR ALL TO "@prefix@_operator"
  USING ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))
  WITH CHECK ((SELECT dims.current_bot()) IS NULL OR bot_id = (SELECT dims.current_bot()))

GRANT SELECT, INSERT, UPDATE, DELETE ON dims.users TO "@prefix@_bot"

GRANT SELECT ON dims.users TO "@prefix@_operator"

CREATE TRIGGER audit_1 AFTER INSERT ON dims.users
  FOR EACH ROW WHEN (dims.current_bot() IS NULL) EXECUTE FUNCTION dims.audit_row('users', 'bot_id,user_id', '')

CREATE TRIGGER audit_2 AFTER UPDATE OR DELETE ON dims.users
  FOR EACH ROW  EXECUTE FUNCTION dims.audit_row('users', 'bot_id,user_id', '')

CREATE VIEW dims.recent_errors WITH (security_invoker = true, security_barrier = true) AS
SELECT bot_id, occurred_at, 'event' AS source, kind AS what, data ->> 'error' AS error,
  correlation_id FROM dims.analytics_events WHERE level = 'error'
UNION ALL
SELECT bot_id, received_at, 'inbox', kind, last_error, correlation_id
  FROM dims.inbox WHERE status = 'dead'
UNION ALL
SELECT bot_id, created_at, 'outbox', method, last_error, correlation_id
  FROM dims.outbox WHERE status = 'dead'

GRANT SELECT ON dims.recent_errors TO "@prefix@_operator"

CREATE VIEW dims.message_counts WITH (security_invoker = true, security_barrier = true) AS
SELECT bot_id, (sent_at AT TIME ZONE 'UTC')::date AS day,
  count(*) FILTER (WHERE NOT is_outgoing) AS incoming,
  count(*) FILTER (WHERE is_outgoing) AS outgoing, count(DISTINCT chat_id) AS chats
FROM dims.messages GROUP BY 1, 2

GRANT SELECT ON dims.message_counts TO "@prefix@_operator"

CREATE VIEW dims.backlog WITH (security_invoker = true, security_barrier = true) AS
SELECT bot_id, 'inbox' AS queue, status, count(*) AS waiting, min(available_at) AS oldest
  FROM dims.inbox WHERE status IN ('new', 'running') GROUP BY 1, 3
UNION ALL
SELECT bot_id, 'outbox', status, count(*), min(available_at)
  FROM dims.outbox WHERE status IN ('pending', 'sending') GROUP BY 1, 3

GRANT SELECT ON dims.backlog TO "@prefix@_operator"

CREATE VIEW dims.partition_sizes WITH (security_invoker = true, security_barrier = true) AS
SELECT parent.relname::text AS table_name, part.relname::text AS partition,
  pg_catalog.pg_total_relation_size(part.oid) AS bytes,
  greatest(part.reltuples, 0)::bigint AS rows_estimate,
  round(100.0 * pg_catalog.pg_total_relation_size(part.oid) / greatest(1, sum(
    pg_catalog.pg_total_relation_size(part.oid)) OVER (PARTITION BY parent.oid)), 1)
    AS percent_of_table
FROM pg_catalog.pg_class AS parent
JOIN pg_catalog.pg_inherits AS link ON link.inhparent = parent.oid
JOIN pg_catalog.pg_class AS part ON part.oid = link.inhrelid
WHERE parent.relnamespace = 'dims'::regnamespace AND parent.relkind = 'p'

GRANT SELECT ON dims.partition_sizes TO "@prefix@_operator"
