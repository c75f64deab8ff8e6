-- Orders that are made to watch the pipe travel it whole and are stored, but no figure counts them: they are left out of
-- the sums that are kept as of those read live. A row of before, or of a module's host that doesn't say, is none.
ALTER TABLE ${database}.orders_analytics ADD COLUMN IF NOT EXISTS
    is_canary UInt8 DEFAULT 0 COMMENT '1: made to watch the pipe; no figure counts it' AFTER transformed_at;

ALTER TABLE ${database}.orders_analytics ADD CONSTRAINT IF NOT EXISTS is_canary_is_a_flag CHECK is_canary <= 1;

-- As in 0003_sales_history.sql, without canaries. FINAL comes before WHERE: the newest version says whether it is one.
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
        WHERE is_canary = 0
        UNION ALL
        SELECT slot, '' AS status, 0 AS order, toDecimal64(0, 2) AS amount FROM ${database}.slot_changes
    )
    WHERE slot IN (SELECT slot FROM ${database}.stale_slots)
    GROUP BY slot, status
)
GROUP BY slot;

-- As in 0004_sales_views.sql, without canaries.
CREATE OR REPLACE VIEW ${database}.slot_sales AS
SELECT slot, status, orders, revenue
FROM
(
    SELECT
        toStartOfFifteenMinutes(order_date) AS slot,
        status,
        toUInt64(1) AS orders,
        toDecimal128(total_amount, 2) AS revenue,
        slot AS stale_slot,
        toDateTime(1, 'UTC') AS settled_slot
    FROM ${database}.orders_analytics FINAL
    WHERE is_canary = 0
    UNION ALL
    SELECT slot, status, orders, revenue, toDateTime(0, 'UTC') AS stale_slot, slot AS settled_slot
    FROM ${database}.sales_history FINAL
    ARRAY JOIN statuses AS status, counts AS orders, revenues AS revenue
)
WHERE stale_slot IN (SELECT slot FROM ${database}.stale_slots UNION ALL SELECT toDateTime(0, 'UTC'))
    AND settled_slot NOT IN (SELECT slot FROM ${database}.stale_slots UNION ALL SELECT toDateTime(0, 'UTC'));
