-- What operators did to the outbox: who, why, when, and the event it was done to, whole, where it was discarded.
CREATE TABLE IF NOT EXISTS outbox_audit (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    relay_group VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    done_at     DATETIME(6) NOT NULL,
    done_by     VARCHAR(128) NOT NULL,
    action      VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    reason      VARCHAR(500) NOT NULL,
    -- The outbox row's id; NULL where the action concerns the whole group.
    outbox_id   BIGINT UNSIGNED NULL,
    event_id    CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
    event       JSON NULL,
    KEY outbox_audit_group (relay_group, done_at)
);
