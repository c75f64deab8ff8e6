-- What makes the served views cheap and exact at once (docs/adr/0002-exact-sales-views.md):
-- sums of each quarter of an hour as of their last computation, and when each quarter last changed.
-- A quarter that changed since is read live, so that a late refresh costs time and never a figure.

-- When a row last arrived for a quarter. Fed by every insert, whoever makes it.
CREATE TABLE IF NOT EXISTS ${database}.slot_changes
(
    slot DateTime('UTC') COMMENT 'start of the quarter of an hour in which the orders were created',
    changed_at SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY slot;

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.slot_changes_mv TO ${database}.slot_changes AS
SELECT toStartOfFifteenMinutes(order_date) AS slot, max(loaded_at) AS changed_at
FROM ${database}.orders_analytics
GROUP BY slot;

-- Orders and revenue of a quarter by status: the three arrays belong together, element by element.
-- Empty arrays say that the quarter's orders are all gone.
CREATE TABLE IF NOT EXISTS ${database}.sales_history
(
    slot DateTime('UTC'),
    computed_at DateTime64(3, 'UTC') COMMENT 'the mark: when the refresh that wrote this row began',
    statuses Array(LowCardinality(String)),
    counts Array(UInt64),
    revenues Array(Decimal(38, 2))
)
ENGINE = ReplacingMergeTree(computed_at)
ORDER BY slot;

-- Quarters whose history can't be trusted: never computed, or changed at or after their mark less a slack.
-- The slack of ten minutes is longer than an insert takes between stamping loaded_at and being visible, and
-- than a clock is set back in practice. A mark counts from 30 seconds on: by then every query that runs can
-- see the row it stands in.
CREATE OR REPLACE VIEW ${database}.stale_slots AS
SELECT slot
FROM
(
    SELECT slot, max(changed_at) AS changed, max(computed_at) AS computed
    FROM
    (
        SELECT slot, changed_at, toDateTime64(0, 3, 'UTC') AS computed_at FROM ${database}.slot_changes
        UNION ALL
        SELECT slot, toDateTime64(0, 3, 'UTC') AS changed_at, computed_at FROM ${database}.sales_history
        WHERE computed_at <= now64(3, 'UTC') - INTERVAL 30 SECOND
    )
    GROUP BY slot
)
WHERE changed >= computed - INTERVAL 10 MINUTE;

-- The present sums of the stale quarters: one row each, empty where nothing is left. The stale quarters are
-- asked for once, above the union: asked for in each half, they could differ by what arrives in between.
CREATE OR REPLACE VIEW ${database}.stale_slot_sales AS
SELECT
    slot,
    groupArrayIf(status, orders > 0) AS statuses,
    groupArrayIf(orders, orders > 0) AS counts,
    groupArrayIf(revenue, orders > 0) AS revenues
FROM
(
    SELECT slot, status, sum(order) AS orders, sum(amount) AS revenue
    FROM
    (
        SELECT toStartOfFifteenMinutes(order_date) AS slot, status, 1 AS order, total_amount AS amount
        FROM ${database}.orders_analytics FINAL
        UNION ALL
        SELECT slot, '' AS status, 0 AS order, toDecimal64(0, 2) AS amount FROM ${database}.slot_changes
    )
    WHERE slot IN (SELECT slot FROM ${database}.stale_slots)
    GROUP BY slot, status
)
GROUP BY slot;

-- Only stale quarters are computed again: the cost follows what changed, not how much history there is.
-- APPEND leaves other quarters alone; the newest mark of a quarter wins.
CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.sales_history_refresh
REFRESH EVERY 1 MINUTE APPEND TO ${database}.sales_history AS
SELECT slot, now64(3, 'UTC') AS computed_at, statuses, counts, revenues
FROM ${database}.stale_slot_sales;
