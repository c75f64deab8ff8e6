//! The one engine configuration that the publisher and the function share, and the limits of a module.
//!
//! An artifact runs only in an engine of the same configuration, so nothing here may depend on which of the
//! two is running. A change to [`engine_config`] that makes other artifacts needs another revision in
//! [`Target`]'s keys: a test of the feature `compile` holds the two together.

use std::{thread, time::Duration};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

/// A machine that artifacts are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Names the artifacts that an engine of this target can load: wasmtime's major version, our configuration's
    /// revision, and the machine. wasmtime's own `precompile_compatibility_hash()` needs the compiler, which a function
    /// doesn't carry (docs/adr/0001); wasmtime checks all of it again when it loads an artifact.
    pub key: &'static str,
    /// Named, so that no feature of the publisher's own CPU gets into an artifact: the baseline of the architecture
    /// runs on every machine of it.
    pub triple: &'static str,
}

impl Target {
    const X86_64_LINUX: Self =
        Self { key: "wasmtime-48-r3-x86_64-linux", triple: "x86_64-unknown-linux-gnu" };
    const AARCH64_LINUX: Self =
        Self { key: "wasmtime-48-r3-aarch64-linux", triple: "aarch64-unknown-linux-gnu" };

    /// Those that Lambda has.
    pub const LAMBDA: [Self; 2] = [Self::X86_64_LINUX, Self::AARCH64_LINUX];

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub const THIS: Self = Self::X86_64_LINUX;
    #[cfg(all(target_arch = "aarch64", target_os = "linux"))]
    pub const THIS: Self = Self::AARCH64_LINUX;
    #[cfg(all(target_arch = "aarch64", target_os = "macos"))]
    pub const THIS: Self = Self { key: "wasmtime-48-r3-aarch64-macos", triple: "aarch64-apple-darwin" };
    #[cfg(all(target_arch = "x86_64", target_os = "macos"))]
    pub const THIS: Self = Self { key: "wasmtime-48-r3-x86_64-macos", triple: "x86_64-apple-darwin" };

    /// What is published for: Lambda's, and the machine that this runs on.
    pub fn published() -> impl Iterator<Item = Self> {
        Self::LAMBDA.into_iter().chain(Some(Self::THIS).filter(|this| !Self::LAMBDA.contains(this)))
    }
}

/// Deadlines are counted in ticks: fine enough for half a second, and 100 wake-ups a second cost nothing.
const TICK: Duration = Duration::from_millis(10);

/// The largest memory a slot of the pool can hold; [`Limits::memory_bytes`] is at most this.
const POOL_MEMORY_BYTES: usize = 256 << 20;

/// Components alive at once: a batch, a rerun, and a module that is being checked.
const POOL_COMPONENTS: u32 = 4;

/// Of a slot's memory this much stays with the process from batch to batch, zeroed: what a batch of some hundred events
/// touches. Else each batch takes its pages from the kernel anew, which costs more than the module's own work on them.
const POOL_RESIDENT_BYTES: usize = 2 << 20;

/// Core instances and tables a component may have: `wit-component` wraps a guest in two small helpers, and
/// composed guests have a few more.
const POOL_PARTS_PER_COMPONENT: u32 = 8;

/// What a module may take. Every limit rejects a record or a module, none stops the function.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Linear memory of an instance. A module that asks for more traps. At most 256 MiB.
    pub memory_bytes: usize,
    /// Wall clock for a batch in one call, and for `describe`. Hit, it leads to the rerun.
    pub batch_deadline: Duration,
    /// Wall clock for one record in the rerun. Hit, it leaves the record and those behind it to a retry: a
    /// stalled host must not condemn a good record.
    pub record_deadline: Duration,
    /// Instructions for one record in the rerun, counted and the same everywhere. Hit, it rejects the record. The slowest
    /// ones must come to this number before `record_deadline`, or an endless loop would be given again for ever.
    pub record_fuel: u64,
    /// Wall clock for a whole rerun; what remains is left to a retry.
    pub rerun_budget: Duration,
    /// Rows that one record may become.
    pub rows_per_record: usize,
    /// Bytes of a row as JSON. Brokers take 1 MiB a record by default; what they refuse could never be sent.
    pub row_bytes: usize,
    /// Bytes of all rows that one record may become.
    pub record_bytes: usize,
    /// Bytes of all rows of a batch. Those behind are left to a retry; the first record always goes.
    pub batch_bytes: usize,
    /// Bytes that a module may hand to the host in one call.
    pub output_bytes: usize,
    /// Log lines a batch; the rest is counted and dropped.
    pub log_lines: u32,
    /// Bytes of a log line or of a rejection's message; the rest is cut.
    pub message_bytes: usize,
}

impl Default for Limits {
    /// Made for batches of some thousand events, which take milliseconds and few MiB.
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            batch_deadline: Duration::from_secs(2),
            record_deadline: Duration::from_secs(3),
            record_fuel: 100_000_000,
            rerun_budget: Duration::from_secs(5),
            rows_per_record: 1_000,
            row_bytes: 900_000,
            record_bytes: 8 << 20,
            batch_bytes: 64 << 20,
            output_bytes: 64 << 20,
            log_lines: 100,
            message_bytes: 1_024,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the WASM engine could not be set up: {reason}")]
pub struct EngineError {
    reason: String,
}

/// wasmtime's engines with a thread that makes their deadlines pass. One a process.
///
/// There are two: a usual batch runs in one that counts nothing, a suspect record in one that counts each instruction,
/// which takes a third longer. They run different native code.
#[derive(Clone)]
pub struct Engine {
    fast: wasmtime::Engine,
    metered: wasmtime::Engine,
    limits: Limits,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("key", &Target::THIS.key).field("limits", &self.limits).finish()
    }
}

impl Engine {
    /// Starts the engine and its ticker; the ticker ends with the last clone of the engine.
    pub fn new(limits: Limits) -> Result<Self, EngineError> {
        let failed = |reason: String| EngineError { reason };
        let start = |metered: bool| {
            let engine =
                engine_config(Target::THIS.triple, metered).and_then(|config| wasmtime::Engine::new(&config));
            engine.map_err(|e| failed(format!("{e:#}")))
        };
        let (fast, metered) = (start(false)?, start(true)?);
        let weak = [fast.weak(), metered.weak()];
        thread::Builder::new()
            .name("wasm-ticker".to_owned())
            .spawn(move || {
                loop {
                    thread::sleep(TICK);
                    for weak in &weak {
                        match weak.upgrade() {
                            Some(engine) => engine.increment_epoch(),
                            None => return,
                        }
                    }
                }
            })
            .map_err(|e| failed(format!("no thread for the ticker: {e}")))?;
        Ok(Self { fast, metered, limits })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn fast(&self) -> &wasmtime::Engine {
        &self.fast
    }

    /// Counts instructions.
    pub(crate) fn metered(&self) -> &wasmtime::Engine {
        &self.metered
    }
}

/// Ticks until a deadline. One more than fits, since the first may come at once.
pub(crate) fn ticks(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

pub(crate) fn engine_config(target: &str, metered: bool) -> wasmtime::Result<Config> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(POOL_COMPONENTS)
        .total_core_instances(POOL_COMPONENTS * POOL_PARTS_PER_COMPONENT)
        .total_tables(POOL_COMPONENTS * POOL_PARTS_PER_COMPONENT)
        .total_memories(POOL_COMPONENTS)
        .max_memory_size(POOL_MEMORY_BYTES)
        .linear_memory_keep_resident(POOL_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config.target(target)?;
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .consume_fuel(metered)
        // The environment (WASMTIME_BACKTRACE_DETAILS) must not change what a module's trap says.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // A rejection tells the trap and the module's own words. The rest would be addresses of a stripped module, at the price
        // of larger artifacts that take longer to load.
        .generate_address_map(false)
        .native_unwind_info(false)
        // Its results may differ from one CPU to another; the same events give the same rows.
        .wasm_relaxed_simd(false);
    #[cfg(feature = "compile")]
    config.cranelift_nan_canonicalization(true);
    Ok(config)
}

#[cfg(all(test, feature = "compile"))]
mod tests {
    use super::*;
    use std::hash::{Hash, Hasher};

    /// SHA-256, so that the value doesn't depend on the standard library's hasher.
    #[derive(Default)]
    struct Stable(Vec<u8>);

    impl Hasher for Stable {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }

    /// Fails where an engine makes other artifacts than before: raise the revision in [`Target`]'s keys, then
    /// `UPDATE_EXPECT=1`.
    #[test]
    fn a_key_stands_for_one_configuration() {
        let hash = |target: Target, metered| {
            let config = engine_config(target.triple, metered).expect("the target is known");
            let engine = wasmtime::Engine::new(&config).expect("the engine starts");
            let mut hasher = Stable::default();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            crate::Digest::of(&hasher.0).short().to_owned()
        };
        let hashes: String = Target::LAMBDA
            .map(|target| format!("{} {} {}\n", target.key, hash(target, false), hash(target, true)))
            .concat();
        expect_test::expect![[r#"
            wasmtime-48-r3-x86_64-linux 63857417ac9b 3cfdc388672f
            wasmtime-48-r3-aarch64-linux 1c18acc1d218 657f8ee65bc4
        "#]]
        .assert_eq(&hashes);
    }
}
