//! Ports: the remembered one, else the usual one, else the next that is free.

use std::collections::BTreeSet;
use std::net::TcpListener;

use crate::versions::{CLICKHOUSE_PORT, HOST, KAFKA_CONTROLLER_PORT, KAFKA_PORT, MYSQL_PORT};

/// How many ports above the usual one are tried. A machine on which all of them are taken has another problem.
const SEARCH: u16 = 200;

/// Where the search for each port starts. 0 stands for "any free port".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// MySQL's port.
    pub mysql: u16,
    /// Kafka's port for its clients.
    pub kafka: u16,
    /// Kafka's port for its own controller.
    pub kafka_controller: u16,
    /// The port of ClickHouse's HTTP interface.
    pub clickhouse: u16,
}

impl Ports {
    /// The ports everyone expects.
    pub const USUAL: Self = Self {
        mysql: MYSQL_PORT,
        kafka: KAFKA_PORT,
        kafka_controller: KAFKA_CONTROLLER_PORT,
        clickhouse: CLICKHOUSE_PORT,
    };
    /// Whatever the system has free: for tests.
    pub const ANY: Self = Self { mysql: 0, kafka: 0, kafka_controller: 0, clickhouse: 0 };
}

impl Default for Ports {
    fn default() -> Self {
        Self::USUAL
    }
}

/// Whether nobody listens on this port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((HOST, port)).is_ok()
}

/// Picks a port that is free and not in `taken`.
pub(crate) fn pick(remembered: Option<u16>, usual: u16, taken: &BTreeSet<u16>) -> anyhow::Result<u16> {
    let usable = |port: &u16| *port != 0 && !taken.contains(port) && is_free(*port);
    if let Some(port) = remembered.filter(usable) {
        return Ok(port);
    }
    if usual == 0 {
        return any_free(taken);
    }
    (usual..=usual.saturating_add(SEARCH)).find(usable).ok_or_else(|| {
        anyhow::anyhow!(
            "no free port between {usual} and {}: stop what listens there (`ss -ltnp` shows it)",
            usual.saturating_add(SEARCH)
        )
    })
}

fn any_free(taken: &BTreeSet<u16>) -> anyhow::Result<u16> {
    for _ in 0..SEARCH {
        let port = TcpListener::bind((HOST, 0))?.local_addr()?.port();
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
    anyhow::bail!("the system offers no free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> BTreeSet<u16> {
        BTreeSet::new()
    }

    #[test]
    fn the_usual_port_where_it_is_free_else_the_next() {
        let holder = TcpListener::bind((HOST, 0)).unwrap();
        let held = holder.local_addr().unwrap().port();
        assert!(!is_free(held));
        let next = pick(None, held, &none()).unwrap();
        assert!(next > held && next <= held + SEARCH, "{held} → {next}");
        drop(holder);
        assert_eq!(pick(None, held, &none()).unwrap(), held);
    }

    #[test]
    fn a_port_held_on_all_addresses_is_not_free() {
        let holder = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        assert!(!is_free(holder.local_addr().unwrap().port()));
    }

    #[test]
    fn the_remembered_port_comes_first_while_it_is_free() {
        let free = any_free(&none()).unwrap();
        assert_eq!(pick(Some(free), 1, &none()).unwrap(), free);
        let holder = TcpListener::bind((HOST, free)).unwrap();
        assert_ne!(pick(Some(free), 0, &none()).unwrap(), free);
        drop(holder);
    }

    #[test]
    fn a_port_promised_to_another_service_is_passed_over() {
        let free = any_free(&none()).unwrap();
        let taken = BTreeSet::from([free]);
        assert_ne!(pick(Some(free), free, &taken).unwrap(), free);
    }
}
