-- How far a relay group has come: every row with id <= position is delivered, but for those in outbox_gaps.
-- The lease runs on this server's clock; the fencing token rises with every owner, so that a late one is refused.
CREATE TABLE IF NOT EXISTS outbox_position (
    relay_group   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    position      BIGINT UNSIGNED NOT NULL DEFAULT 0,
    lease_owner   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    lease_until   DATETIME(6) NULL,
    fencing_token BIGINT UNSIGNED NOT NULL DEFAULT 0
);

-- Ranges of ids below the position that were not visible when it passed: given to a transaction that had not
-- committed, or that never will. Each is asked for again until it is delivered or proven dead.
CREATE TABLE IF NOT EXISTS outbox_gaps (
    relay_group   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    first_id      BIGINT UNSIGNED NOT NULL,
    last_id       BIGINT UNSIGNED NOT NULL,
    first_seen_at DATETIME(6) NOT NULL,
    PRIMARY KEY (relay_group, first_id)
);

-- Where the position was, about once a second: tells when a row was delivered.
CREATE TABLE IF NOT EXISTS outbox_checkpoints (
    relay_group VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    position    BIGINT UNSIGNED NOT NULL,
    event_id    CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    moved_at    DATETIME(6) NOT NULL,
    PRIMARY KEY (relay_group, position)
);
