-- The views people query. Hours and days are the shop's, ${time_zone}: this file is applied again when
-- the zone changes, and nothing stored depends on it.
--
-- Orders and revenue belong to the hour and day in which the order was created, whenever it was completed
-- or cancelled: an order that is cancelled a week later leaves the hour it had been placed in.
-- order_count, total_revenue and avg_order_value count orders that aren't cancelled; placed counts all.

-- Each quarter once: from today's truth where it is stale, else from history.
CREATE OR REPLACE VIEW ${database}.slot_sales AS
SELECT slot, cell.1 AS status, cell.2 AS orders, cell.3 AS revenue
FROM
(
    SELECT slot, argMax(arrayZip(statuses, counts, revenues), computed_at) AS cells
    FROM
    (
        SELECT slot, computed_at, statuses, counts, revenues FROM ${database}.sales_history
        UNION ALL
        -- A mark that no refresh reaches.
        SELECT slot, toDateTime64('2200-01-01 00:00:00.000', 3, 'UTC') AS computed_at, statuses, counts, revenues
        FROM ${database}.stale_slot_sales
    )
    GROUP BY slot
)
ARRAY JOIN cells AS cell;

CREATE OR REPLACE VIEW ${database}.hourly_sales_by_status AS
SELECT
    toStartOfHour(slot, '${time_zone}') AS order_hour,
    status,
    sum(orders) AS order_count,
    sum(revenue) AS revenue
FROM ${database}.slot_sales
GROUP BY order_hour, status;

CREATE OR REPLACE VIEW ${database}.hourly_sales_mv AS
SELECT
    toStartOfHour(slot, '${time_zone}') AS order_hour,
    sumIf(orders, status != 'CANCELLED') AS order_count,
    sumIf(revenue, status != 'CANCELLED') AS total_revenue,
    -- Divided when read, rounded half up to the cent; an hour of cancelled orders alone has no average.
    if(order_count = 0, NULL, toDecimal128(round(toDecimal128(total_revenue, 6) / greatest(order_count, 1), 2), 2))
        AS avg_order_value,
    sum(orders) AS placed,
    sumIf(orders, status = 'COMPLETED') AS completed,
    sumIf(orders, status = 'CANCELLED') AS cancelled,
    sumIf(revenue, status = 'COMPLETED') AS completed_revenue
FROM ${database}.slot_sales
GROUP BY order_hour;

CREATE OR REPLACE VIEW ${database}.daily_sales_mv AS
SELECT
    toDate(slot, '${time_zone}') AS order_date,
    sumIf(orders, status != 'CANCELLED') AS order_count,
    sumIf(revenue, status != 'CANCELLED') AS total_revenue,
    if(order_count = 0, NULL, toDecimal128(round(toDecimal128(total_revenue, 6) / greatest(order_count, 1), 2), 2))
        AS avg_order_value,
    sum(orders) AS placed,
    sumIf(orders, status = 'COMPLETED') AS completed,
    sumIf(orders, status = 'CANCELLED') AS cancelled,
    sumIf(revenue, status = 'COMPLETED') AS completed_revenue
FROM ${database}.slot_sales
GROUP BY order_date;
