//! Generated from `transforms/wit`: the guest's side of the interface.
#![allow(unsafe_code, missing_debug_implementations, unreachable_pub, clippy::all)]

wit_bindgen::generate!({
    path: "../../transforms/wit",
    world: "packed-plugin",
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "outflow_transform_sdk::bindings",
});
