//! Generated from `transforms/wit`: the host's side of the interface, as typed values and as bytes.
#![allow(missing_debug_implementations, unreachable_pub, clippy::all)]

pub(crate) mod typed {
    wasmtime::component::bindgen!({
        path: "../../transforms/wit",
        world: "plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) mod packed {
    wasmtime::component::bindgen!({
        path: "../../transforms/wit",
        world: "packed-plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: { "outflow:transform/types": super::typed::outflow::transform::types },
    });
}
