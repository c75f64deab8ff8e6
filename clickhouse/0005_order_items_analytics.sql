-- One row a line of an order and version, each a full snapshot: the highest version wins. Read it with FINAL, always;
-- 0002_orders_analytics.sql tells why. A line is found by what never changes: the quarter of an hour in which its order
-- was created, the order, the line's number.
CREATE TABLE IF NOT EXISTS ${database}.order_items_analytics
(
    order_id UUID,
    line UInt16 COMMENT 'from 1, in the order of the order itself',
    order_date DateTime64(3, 'UTC') COMMENT 'when the order was created; never the time of a transformation',
    user_id String,
    status LowCardinality(String) COMMENT 'of the order: PENDING, COMPLETED or CANCELLED as of this version',
    product_id LowCardinality(String),
    product_name LowCardinality(String) COMMENT 'as it was called when it was ordered',
    quantity UInt32,
    unit_price Decimal(18, 2),
    line_total Decimal(18, 2),
    version UInt64 COMMENT 'aggregate version << 24 | generation, below 2^63; the highest wins',
    is_deleted UInt8 COMMENT '1: tombstone',
    event_id UUID,
    transform_digest LowCardinality(String) COMMENT 'sha256 of the module that made the row, hex',
    occurred_at DateTime64(3, 'UTC') COMMENT 'the event, in the shop',
    relayed_at DateTime64(3, 'UTC') COMMENT 'the event, in Kafka',
    transformed_at DateTime64(3, 'UTC'),
    is_canary UInt8 DEFAULT 0 COMMENT '1: made to watch the pipe; no figure counts it',
    loaded_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'stamped here; a loader never sends it',
    CONSTRAINT order_date_in_range CHECK order_date >= toDateTime64('2000-01-01 00:00:00.000', 3, 'UTC')
        AND order_date < toDateTime64('2100-01-01 00:00:00.000', 3, 'UTC'),
    CONSTRAINT version_below_2_63 CHECK version < 9223372036854775808,
    CONSTRAINT is_deleted_is_a_flag CHECK is_deleted <= 1,
    CONSTRAINT is_canary_is_a_flag CHECK is_canary <= 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(order_date)
ORDER BY (toStartOfFifteenMinutes(order_date), order_id, line);
