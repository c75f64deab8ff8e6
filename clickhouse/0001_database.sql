-- The database itself. ${database} is `analytics` unless the configuration names another (tests do).
CREATE DATABASE IF NOT EXISTS ${database};
