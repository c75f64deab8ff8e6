-- The stock held for an order is an aggregate of its own (type Inventory), and the order's row guards it: so its version
-- stands there, too. Every order so far has told of its reservation once.
-- MySQL has no ADD COLUMN IF NOT EXISTS: asked first, so that the migration can run twice.
SET @add_column = IF(
    EXISTS (
        SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'orders' AND column_name = 'reservation_version'
    ),
    'DO 0',
    'ALTER TABLE orders ADD COLUMN reservation_version INT UNSIGNED NOT NULL DEFAULT 1'
);
PREPARE add_column FROM @add_column;
EXECUTE add_column;
DEALLOCATE PREPARE add_column;
