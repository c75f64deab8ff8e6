-- The views people query. Hours and days are the shop's, ${time_zone}: this file is applied again when
-- the zone changes, and nothing stored depends on it.
--
-- Orders and revenue belong to the hour and day in which the order was created, whenever it was completed
-- or cancelled: an order that is cancelled a week later leaves the hour it had been placed in.
-- order_count, total_revenue and avg_order_value count orders that aren't cancelled; placed counts all.

-- Each quarter once: from history, or order by order as it stands now where history is stale.
-- The stale quarters are asked for in one place, above the union, and so once a query: asked for in each half,
-- a quarter that changes in between would be in both halves or in none. Both conditions go down into both
-- halves: in the live half the first chooses by the sorting key and the second is always true, in the other
-- half it is the other way round. The epoch, which is no order's quarter, is what makes them so.
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
    UNION ALL
    SELECT slot, status, orders, revenue, toDateTime(0, 'UTC') AS stale_slot, slot AS settled_slot
    FROM ${database}.sales_history FINAL
    ARRAY JOIN statuses AS status, counts AS orders, revenues AS revenue
)
WHERE stale_slot IN (SELECT slot FROM ${database}.stale_slots UNION ALL SELECT toDateTime(0, 'UTC'))
    AND settled_slot NOT IN (SELECT slot FROM ${database}.stale_slots UNION ALL SELECT toDateTime(0, 'UTC'));

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
