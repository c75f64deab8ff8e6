-- One row a product of a reservation and version, each a full snapshot: the highest version wins. Read it with FINAL,
-- always; 0002_orders_analytics.sql tells why. A row is found by what never changes: the quarter of an hour of the
-- reservation, its order, the product, which a reservation has once.
CREATE TABLE IF NOT EXISTS ${database}.inventory_analytics
(
    order_id UUID,
    product_id String,
    reserved_at DateTime64(3, 'UTC') COMMENT 'when the reservation was made; never the time of a transformation',
    status LowCardinality(String) COMMENT 'of the reservation as of this version',
    quantity UInt32 COMMENT 'pieces that it holds',
    version UInt64 COMMENT 'aggregate version << 24 | generation, below 2^63; the highest wins',
    is_deleted UInt8 COMMENT '1: tombstone',
    event_id UUID,
    transform_digest LowCardinality(String) COMMENT 'sha256 of the module that made the row, hex',
    occurred_at DateTime64(3, 'UTC') COMMENT 'the event, in the shop',
    relayed_at DateTime64(3, 'UTC') COMMENT 'the event, in Kafka',
    transformed_at DateTime64(3, 'UTC'),
    is_canary UInt8 DEFAULT 0 COMMENT '1: made to watch the pipe; no figure counts it',
    loaded_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'stamped here; a loader never sends it',
    CONSTRAINT reserved_at_in_range CHECK reserved_at >= toDateTime64('2000-01-01 00:00:00.000', 3, 'UTC')
        AND reserved_at < toDateTime64('2100-01-01 00:00:00.000', 3, 'UTC'),
    CONSTRAINT version_below_2_63 CHECK version < 9223372036854775808,
    CONSTRAINT is_deleted_is_a_flag CHECK is_deleted <= 1,
    CONSTRAINT is_canary_is_a_flag CHECK is_canary <= 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(reserved_at)
ORDER BY (toStartOfFifteenMinutes(reserved_at), order_id, product_id);
