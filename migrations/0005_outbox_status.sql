-- Each event with what has become of it, for people and for queries that expect a `processed` column.
-- `processed_at` is the time of the first checkpoint at or behind the row. `retry_count` is 0 because the relay delivers
-- page by page: no event has failures of its own.
CREATE OR REPLACE VIEW outbox_status AS
SELECT
    o.id,
    o.aggregate_id,
    o.aggregate_type,
    o.event_type,
    o.payload,
    o.id <= COALESCE(p.position, 0) AND NOT EXISTS (
        SELECT 1 FROM outbox_gaps g WHERE g.relay_group = p.relay_group AND o.id BETWEEN g.first_id AND g.last_id
    ) AS processed,
    (
        SELECT c.moved_at FROM outbox_checkpoints c
        WHERE c.relay_group = p.relay_group AND c.position >= o.id ORDER BY c.position LIMIT 1
    ) AS processed_at,
    0 AS retry_count,
    o.created_at
FROM outbox o
LEFT JOIN outbox_position p ON p.relay_group = 'default';
