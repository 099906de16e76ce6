"""Views for what operators ask. Each reads with the rights of who asks, never of who made it."""

from __future__ import annotations

VIEWS = {
    "recent_errors": """\
SELECT bot_id, occurred_at, 'event' AS source, kind AS what, data ->> 'error' AS error,
  correlation_id FROM dims.analytics_events WHERE level = 'error'
UNION ALL
SELECT bot_id, received_at, 'inbox', kind, last_error, correlation_id
  FROM dims.inbox WHERE status = 'dead'
UNION ALL
SELECT bot_id, created_at, 'outbox', method, last_error, correlation_id
  FROM dims.outbox WHERE status = 'dead'""",
    "message_counts": """\
SELECT bot_id, (sent_at AT TIME ZONE 'UTC')::date AS day,
  count(*) FILTER (WHERE NOT is_outgoing) AS incoming,
  count(*) FILTER (WHERE is_outgoing) AS outgoing, count(DISTINCT chat_id) AS chats
FROM dims.messages GROUP BY 1, 2""",
    "backlog": """\
SELECT bot_id, 'inbox' AS queue, status, count(*) AS waiting, min(available_at) AS oldest
  FROM dims.inbox WHERE status IN ('new', 'running') GROUP BY 1, 3
UNION ALL
SELECT bot_id, 'outbox', status, count(*), min(available_at)
  FROM dims.outbox WHERE status IN ('pending', 'sending') GROUP BY 1, 3""",
    "partition_sizes": """\
SELECT parent.relname::text AS table_name, part.relname::text AS partition,
  pg_catalog.pg_total_relation_size(part.oid) AS bytes,
  greatest(part.reltuples, 0)::bigint AS rows_estimate,
  round(100.0 * pg_catalog.pg_total_relation_size(part.oid) / greatest(1, sum(
    pg_catalog.pg_total_relation_size(part.oid)) OVER (PARTITION BY parent.oid)), 1)
    AS percent_of_table
FROM pg_catalog.pg_class AS parent
JOIN pg_catalog.pg_inherits AS link ON link.inhparent = parent.oid
JOIN pg_catalog.pg_class AS part ON part.oid = link.inhrelid
WHERE parent.relnamespace = 'dims'::regnamespace AND parent.relkind = 'p'""",
}
