-- One row an order and version, each a full snapshot: the highest version wins, whatever was duplicated,
-- reordered, re-sent or replayed on the way. A row with is_deleted = 1 is a tombstone: it takes its order's
-- stored row away. Read this table with FINAL, always; without it one order can be several rows.
--
-- An order is found by its creation time alone, in the partition as in the sorting key: it never changes, so
-- that all versions of an order meet and replace each other. The key's unit is a quarter of an hour, because
-- every time zone in use starts its hours and days on a quarter: readers choose the zone, not this table.
CREATE TABLE IF NOT EXISTS ${database}.orders_analytics
(
    order_id UUID,
    order_date DateTime64(3, 'UTC') COMMENT 'when the order was created; never the time of a transformation',
    user_id String,
    status LowCardinality(String) COMMENT 'PENDING, COMPLETED or CANCELLED as of this version',
    total_amount Decimal(18, 2),
    item_count UInt32 COMMENT 'lines of the order',
    quantity UInt32 COMMENT 'pieces, summed over the lines',
    order_band LowCardinality(String),
    version UInt64 COMMENT 'aggregate version << 24 | generation, below 2^63; the highest wins',
    is_deleted UInt8 COMMENT '1: tombstone',
    event_id UUID,
    transform_digest LowCardinality(String) COMMENT 'sha256 of the module that made the row, hex',
    occurred_at DateTime64(3, 'UTC') COMMENT 'the event, in the shop',
    relayed_at DateTime64(3, 'UTC') COMMENT 'the event, in Kafka',
    transformed_at DateTime64(3, 'UTC'),
    loaded_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'stamped here; a loader never sends it',
    -- Quarters are DateTime, which ends in 2106: outside its range a quarter would wrap and move revenue.
    CONSTRAINT order_date_in_range CHECK order_date >= toDateTime64('2000-01-01 00:00:00.000', 3, 'UTC')
        AND order_date < toDateTime64('2100-01-01 00:00:00.000', 3, 'UTC'),
    -- Kafka Connect and JSON readers keep 64-bit numbers exact below 2^63 only.
    CONSTRAINT version_below_2_63 CHECK version < 9223372036854775808,
    CONSTRAINT is_deleted_is_a_flag CHECK is_deleted <= 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(order_date)
ORDER BY (toStartOfFifteenMinutes(order_date), order_id);
