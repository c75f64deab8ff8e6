//! `outflow outbox` as scripts see it.
