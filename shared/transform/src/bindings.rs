//! Generated from `transforms/wit`: the host's side of the interface.
#![allow(missing_debug_implementations, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../transforms/wit",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
});
