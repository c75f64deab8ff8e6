//! What a benchmark ran on, for whoever reads its figures.

use outflow_stack::versions;
use std::fmt;

/// The machine as Linux tells of it.
#[derive(Debug)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    /// Processes that ran on average over the last minute: what else was going on.
    load: String,
}

impl Machine {
    pub(super) fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory_kib =
            field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory_kib / (1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_gib, kernel, load } = self;
        write!(
            f,
            "{cores} cores ({processor}), {memory_gib} GiB, Linux {kernel}, load {load} before the start; MySQL {}, \
             Kafka {}, beside it on the same machine",
            versions::MYSQL,
            versions::KAFKA
        )
    }
}
