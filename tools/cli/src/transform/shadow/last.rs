//! The last report of a module, for whoever activates it.

use super::report;
use outflow_transform::{ActiveTransform, ModuleInfo, Pointer, Registry, RegistryError};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeSet, fmt};

/// Reports that are looked at: one object each.
const LOOK_BACK: usize = 20;

/// The last one beside what is active now, or else the last one.
#[derive(Debug, Serialize)]
pub(in crate::transform) struct Last {
    number: u32,
    /// What the candidate was compared with is what is active now.
    against_active: bool,
    report: Value,
}

impl Last {
    /// None where the module never ran as a candidate.
    pub(in crate::transform) async fn find(
        registry: &Registry,
        info: &ModuleInfo,
        pointer: Option<&Pointer>,
    ) -> Result<Option<Self>, RegistryError> {
        let slot = info.slot();
        let active = pointer.into_iter().flat_map(|pointer| pointer.on_tables_of(&slot));
        let active: BTreeSet<&str> = active.map(|active: &ActiveTransform| active.digest.as_str()).collect();
        let mut last = None;
        for number in registry.shadow_reports(&info.digest).await?.into_iter().rev().take(LOOK_BACK) {
            let Some(report) = registry.shadow_report::<Value>(&info.digest, number).await? else { continue };
            let compared = report["active"].as_array().into_iter().flatten();
            let compared: BTreeSet<&str> = compared.filter_map(|module| module["digest"].as_str()).collect();
            if compared == active {
                return Ok(Some(Self { number, against_active: true, report }));
            }
            last.get_or_insert(Self { number, against_active: false, report });
        }
        Ok(last)
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, against_active, report } = self;
        let modules = report["active"].as_array().into_iter().flatten();
        let names: Vec<String> = modules
            .map(|module| {
                let text = |key: &str| module[key].as_str().unwrap_or("?");
                format!("{} {}", text("name"), text("version"))
            })
            .collect();
        let are = if names.len() == 1 { "is" } else { "are" };
        let beside = match (names.as_slice(), against_active) {
            ([], true) => "beside nothing, as nothing is active".to_owned(),
            ([], false) => "beside nothing, and by now a module is active".to_owned(),
            (names, true) => format!("beside {}, which {are} active", names.join(", ")),
            (names, false) => format!("beside {}, which {are} not what is active now", names.join(", ")),
        };
        let (at, summary) = (report::at(report), report["summary"].as_str().unwrap_or("?"));
        write!(f, "it ran {beside}, at {at}, report {number}: {summary}")
    }
}
