-- What is sold, at which price. Prices are the shop's truth: an order copies them, a caller never names one.
CREATE TABLE IF NOT EXISTS products (
    id    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name  VARCHAR(200) NOT NULL,
    price DECIMAL(12, 2) NOT NULL,
    CONSTRAINT products_price CHECK (price >= 0)
);

-- What is left. The row is the lock that keeps two orders from taking the same piece.
CREATE TABLE IF NOT EXISTS inventory (
    product_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    available  INT UNSIGNED NOT NULL,
    reserved   INT UNSIGNED NOT NULL DEFAULT 0,
    CONSTRAINT inventory_product FOREIGN KEY (product_id) REFERENCES products (id)
);
