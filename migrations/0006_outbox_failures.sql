-- Events that could not be delivered, copied whole, and the later events of the same aggregate that wait behind them:
-- so the position moves on, and only that aggregate stands still. `id` is the outbox row's.
--   retry    the first of its aggregate, tried again at `next_attempt_at`
--   waiting  behind the first of its aggregate
--   dead     the first of its aggregate, tried often enough or never to be accepted: waits for an operator
CREATE TABLE IF NOT EXISTS outbox_failures (
    relay_group       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id                BIGINT UNSIGNED NOT NULL,
    event_id          CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_id      VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_type    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event_type        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_version INT UNSIGNED NOT NULL,
    payload           JSON NOT NULL,
    headers           JSON NOT NULL,
    created_at        TIMESTAMP(6) NOT NULL,
    state             VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    attempts          INT UNSIGNED NOT NULL DEFAULT 0,
    cause             VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    last_error        VARCHAR(1000) NULL,
    -- UTC, and so are the two below.
    next_attempt_at   DATETIME(6) NULL,
    parked_at         DATETIME(6) NOT NULL,
    -- [{"at", "cause", "error"}], one entry an attempt, oldest first.
    history           JSON NOT NULL,
    PRIMARY KEY (relay_group, id),
    KEY outbox_failures_due (relay_group, state, next_attempt_at),
    KEY outbox_failures_aggregate (relay_group, aggregate_type, aggregate_id, id),
    CONSTRAINT outbox_failures_state CHECK (state IN ('retry', 'waiting', 'dead'))
);
