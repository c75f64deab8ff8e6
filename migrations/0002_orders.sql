-- Every time is UTC. `version` counts the order's events: 1, 2, 3 … with no hole.
CREATE TABLE IF NOT EXISTS orders (
    id           CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    user_id      VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    status       VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    total_amount DECIMAL(18, 2) NOT NULL,
    item_count   INT UNSIGNED NOT NULL,
    quantity     INT UNSIGNED NOT NULL,
    version      INT UNSIGNED NOT NULL,
    created_at   DATETIME(3) NOT NULL,
    updated_at   DATETIME(3) NOT NULL,
    KEY orders_created_at (created_at)
);

-- A line as it was sold: name and price are copies, so that a later change of the catalogue changes no order.
CREATE TABLE IF NOT EXISTS order_items (
    order_id   CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    line_no    SMALLINT UNSIGNED NOT NULL,
    product_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name       VARCHAR(200) NOT NULL,
    quantity   INT UNSIGNED NOT NULL,
    unit_price DECIMAL(12, 2) NOT NULL,
    line_total DECIMAL(18, 2) NOT NULL,
    PRIMARY KEY (order_id, line_no),
    CONSTRAINT order_items_order FOREIGN KEY (order_id) REFERENCES orders (id)
);
