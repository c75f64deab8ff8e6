-- Which server the position was last moved on, and whether an operator has paused the group.
-- MySQL has no ADD COLUMN IF NOT EXISTS: asked first, so that the migration can run twice.
SET @add_columns = IF(
    EXISTS (
        SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'outbox_position' AND column_name = 'server_uuid'
    ),
    'DO 0',
    'ALTER TABLE outbox_position
         ADD COLUMN server_uuid   CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
         ADD COLUMN paused_at     DATETIME(6) NULL,
         ADD COLUMN paused_by     VARCHAR(128) NULL,
         ADD COLUMN paused_reason VARCHAR(500) NULL'
);
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
DEALLOCATE PREPARE add_columns;
