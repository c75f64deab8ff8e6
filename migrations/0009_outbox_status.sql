-- As 0005, now that events can fail: an event that is parked is not delivered, and its attempts are counted.
CREATE OR REPLACE VIEW outbox_status AS
SELECT
    o.id,
    o.aggregate_id,
    o.aggregate_type,
    o.event_type,
    o.payload,
    o.id <= COALESCE(p.position, 0) AND g.first_id IS NULL AND f.id IS NULL AS processed,
    IF(o.id <= COALESCE(p.position, 0) AND g.first_id IS NULL AND f.id IS NULL, (
        SELECT c.moved_at FROM outbox_checkpoints c
        WHERE c.relay_group = p.relay_group AND c.position >= o.id ORDER BY c.position LIMIT 1
    ), NULL) AS processed_at,
    COALESCE(f.attempts, 0) AS retry_count,
    o.created_at
FROM outbox o
LEFT JOIN outbox_position p ON p.relay_group = 'default'
-- Gaps never touch each other: at most one holds the row.
LEFT JOIN outbox_gaps g ON g.relay_group = p.relay_group AND o.id BETWEEN g.first_id AND g.last_id
LEFT JOIN outbox_failures f ON f.relay_group = p.relay_group AND f.id = o.id;
