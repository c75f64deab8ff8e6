-- The append-only log of events. A row is written in the transaction of the change it tells of, and never updated:
-- what is delivered is told by the relay's position. The primary key is its one index, which keeps writers fast.
CREATE TABLE IF NOT EXISTS outbox (
    id                BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id          CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_id      VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_type    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event_type        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_version INT UNSIGNED NOT NULL,
    payload           JSON NOT NULL,
    headers           JSON NOT NULL,
    created_at        TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
);
