-- Each event with what has become of it, for people and for queries that expect a `processed` column.
-- `processed_at` is the time of the first checkpoint at or behind the row; a row that has appeared in a gap behind the
-- position is not delivered yet and has none. `retry_count` is 0 because the relay delivers page by page: no event has
-- failures of its own.
CREATE OR REPLACE VIEW outbox_status AS
SELECT
    o.id,
    o.aggregate_id,
    o.aggregate_type,
    o.event_type,
    o.payload,
    o.id <= COALESCE(p.position, 0) AND g.first_id IS NULL AS processed,
    IF(o.id <= COALESCE(p.position, 0) AND g.first_id IS NULL, (
        SELECT c.moved_at FROM outbox_checkpoints c
        WHERE c.relay_group = p.relay_group AND c.position >= o.id ORDER BY c.position LIMIT 1
    ), NULL) AS processed_at,
    0 AS retry_count,
    o.created_at
FROM outbox o
LEFT JOIN outbox_position p ON p.relay_group = 'default'
-- Gaps never touch each other: at most one holds the row.
LEFT JOIN outbox_gaps g ON g.relay_group = p.relay_group AND o.id BETWEEN g.first_id AND g.last_id;
