//! Pointers: what is active, and how that changes. Each holds all that is active after its change, so the highest one
//! says everything, and asking whether there is a newer one is asking for one name.

use super::{
    ActiveTransform, Change, ChangeKind, ModuleInfo, Pointer, Registry, RegistryError, RejectLimit, Slot,
    same,
};
use crate::{Digest, Generation, Target};
use object_store::PutMode;
use time::OffsetDateTime;

/// Digits of a pointer's file name: the largest generation has 8.
const POINTER_DIGITS: usize = 8;
/// Times that a function tries to go back. Each that is lost means that somebody's change of another slot has won.
const TRIES: usize = 5;

/// Who wants a change, when and why.
#[derive(Clone, Debug)]
pub struct Signed {
    pub by: String,
    pub at: OffsetDateTime,
    pub why: Option<String>,
}

impl Registry {
    /// The numbers of all pointers, lowest first. Their contents aren't read.
    ///
    /// # Errors
    /// Where the registry can't be listed.
    pub async fn generations(&self) -> Result<Vec<Generation>, RegistryError> {
        let mut generations: Vec<Generation> = self
            .list("pointers")
            .await?
            .iter()
            .filter_map(|name| Generation::new(name.strip_suffix(".json")?.parse().ok()?).ok())
            .collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// One pointer; None where there is none of this number.
    ///
    /// # Errors
    /// Where it can't be read or understood, or speaks of another number.
    pub async fn pointer(&self, generation: Generation) -> Result<Option<Pointer>, RegistryError> {
        let path = self.path("pointers", &format!("{:0POINTER_DIGITS$}.json", generation.get()));
        let Some(text) = self.read_if_there(&path).await? else { return Ok(None) };
        let pointer: Pointer = super::parse(&path, &text)?;
        same(&path, &generation.to_string(), &pointer.generation.to_string())?;
        Ok(Some(pointer))
    }

    /// The highest pointer that can be read, and the highest number there is.
    ///
    /// # Errors
    /// Where the registry can't be listed.
    pub async fn newest(&self) -> Result<(Option<Pointer>, Option<Generation>), RegistryError> {
        let generations = self.generations().await?;
        for &generation in generations.iter().rev() {
            // One that can't be read never counted: behind it is the one that does.
            if let Ok(Some(pointer)) = self.pointer(generation).await {
                return Ok((Some(pointer), generations.last().copied()));
            }
        }
        Ok((None, generations.last().copied()))
    }

    /// Makes a published module the active one of its slot, from each function's next batch on.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] where another change won; [`RegistryError::TableTaken`] where a module of another slot
    /// fills one of its tables; [`RegistryError::UnknownModule`], [`RegistryError::NoArtifact`] and
    /// [`RegistryError::Untrusted`] where the module can't run on one of Lambda's machines or on this one. Nothing is
    /// changed then.
    pub async fn activate(
        &self,
        digest: &Digest,
        limit: Option<RejectLimit>,
        signed: Signed,
    ) -> Result<Pointer, RegistryError> {
        let info = self.find(digest.as_str()).await?;
        let slot = info.slot();
        let (newest, last) = self.newest().await?;
        let active = newest.as_ref().and_then(|pointer| pointer.in_slot(&slot));
        // Activated again, a module leaves behind what it had replaced.
        let before = active.and_then(|active| {
            if active.digest == *digest { active.before.clone() } else { Some(active.digest.clone()) }
        });
        self.put(newest, last, (ChangeKind::Activate, slot), Some((info, before, limit)), signed).await
    }

    /// Whether [`Registry::activate`] would take the module now, for whoever has something to prepare first.
    ///
    /// # Errors
    /// As there.
    pub async fn check_activation(&self, digest: &Digest) -> Result<(), RegistryError> {
        let info = self.find(digest.as_str()).await?;
        let (newest, _) = self.newest().await?;
        self.check(&info, &newest.map(|pointer| pointer.active).unwrap_or_default()).await
    }

    async fn check(&self, info: &ModuleInfo, active: &[ActiveTransform]) -> Result<(), RegistryError> {
        let slot = info.slot();
        for other in active.iter().filter(|active| active.slot != slot) {
            if let Some(table) = slot.shared_table(&other.slot) {
                let (table, slot) = (table.to_owned(), other.slot.clone());
                return Err(RegistryError::TableTaken { table, slot });
            }
        }
        for target in Target::published() {
            self.whole_artifact(&info.digest, target).await?;
        }
        Ok(())
    }

    /// Goes back to the module that was active in the slot before the present one, under a new generation, so that its
    /// rows beat those that the bad module wrote. Where only one slot is in use it need not be named.
    ///
    /// # Errors
    /// As [`Registry::activate`], and where there is nothing to go back to.
    pub async fn roll_back(&self, slot: Option<&Slot>, signed: Signed) -> Result<Pointer, RegistryError> {
        let (newest, last) = self.newest().await?;
        let slot = which(newest.as_ref(), slot)?;
        self.go_back(newest, last, (ChangeKind::RollBack, slot), signed).await
    }

    /// As [`Registry::roll_back`], by a function that has judged one generation: does nothing where another one is
    /// active by now. Where another slot is changed at the same moment it tries again at once, five times in all.
    ///
    /// # Errors
    /// As there, and [`RegistryError::Superseded`].
    pub async fn roll_back_by_itself(
        &self,
        slot: &Slot,
        judged: Generation,
        signed: Signed,
    ) -> Result<Pointer, RegistryError> {
        for _ in 1..TRIES {
            match self.go_back_from(slot, judged, signed.clone()).await {
                Err(RegistryError::Conflict { .. }) => {}
                done => return done,
            }
        }
        self.go_back_from(slot, judged, signed).await
    }

    async fn go_back_from(
        &self,
        slot: &Slot,
        judged: Generation,
        signed: Signed,
    ) -> Result<Pointer, RegistryError> {
        let (newest, last) = self.newest().await?;
        let active = newest.as_ref().and_then(|pointer| pointer.in_slot(slot));
        match active.map(|active| active.generation) {
            Some(found) if found == judged => {}
            Some(found) => {
                return Err(RegistryError::Superseded { slot: slot.clone(), expected: judged, found });
            }
            None => return Err(RegistryError::NotActive { slot: slot.clone() }),
        }
        self.go_back(newest, last, (ChangeKind::AutoRollBack, slot.clone()), signed).await
    }

    /// Leaves a slot without a transform.
    ///
    /// # Errors
    /// Where nothing is active there, and where another change won.
    pub async fn deactivate(&self, slot: &Slot, signed: Signed) -> Result<Pointer, RegistryError> {
        let (newest, last) = self.newest().await?;
        if newest.as_ref().and_then(|pointer| pointer.in_slot(slot)).is_none() {
            return Err(RegistryError::NotActive { slot: slot.clone() });
        }
        self.put(newest, last, (ChangeKind::Deactivate, slot.clone()), None, signed).await
    }

    async fn go_back(
        &self,
        newest: Option<Pointer>,
        last: Option<Generation>,
        (kind, slot): (ChangeKind, Slot),
        signed: Signed,
    ) -> Result<Pointer, RegistryError> {
        let nothing = || RegistryError::NothingToRollBackTo { slot: slot.clone() };
        let active = newest.as_ref().and_then(|pointer| pointer.in_slot(&slot)).ok_or_else(nothing)?;
        let before = active.before.clone().ok_or_else(nothing)?;
        let info = self.find(before.as_str()).await?;
        // What was before that one, so that the next roll-back goes one further back, not to and fro.
        let earlier = self.before(&slot, &before, active.generation).await?;
        self.put(newest, last, (kind, slot), Some((info, earlier, None)), signed).await
    }

    /// What was active in the slot before `digest` was, looking back from a generation.
    async fn before(
        &self,
        slot: &Slot,
        digest: &Digest,
        from: Generation,
    ) -> Result<Option<Digest>, RegistryError> {
        let generations = self.generations().await?;
        for &generation in generations.iter().rev().filter(|generation| **generation < from) {
            if let Ok(Some(pointer)) = self.pointer(generation).await
                && let Some(active) = pointer.in_slot(slot)
                && active.digest == *digest
                && active.generation == generation
            {
                return Ok(active.before.clone());
            }
        }
        Ok(None)
    }

    async fn put(
        &self,
        newest: Option<Pointer>,
        last: Option<Generation>,
        (kind, slot): (ChangeKind, Slot),
        module: Option<(ModuleInfo, Option<Digest>, Option<RejectLimit>)>,
        Signed { by, at, why }: Signed,
    ) -> Result<Pointer, RegistryError> {
        let generation = match last {
            Some(last) => last.next().map_err(RegistryError::Exhausted)?,
            None => Generation::FIRST,
        };
        let mut active = newest.map(|pointer| pointer.active).unwrap_or_default();
        active.retain(|active| active.slot != slot);
        if let Some((info, before, limit)) = module {
            self.check(&info, &active).await?;
            active.push(ActiveTransform {
                slot: slot.clone(),
                digest: info.digest,
                name: info.name,
                version: info.version,
                generation,
                by: by.clone(),
                since: at,
                before,
                limit,
            });
            active.sort_by(|a, b| a.slot.cmp(&b.slot));
        }
        let pointer = Pointer { generation, change: Change { kind, slot, by, at, why }, active };
        let path = self.path("pointers", &format!("{:0POINTER_DIGITS$}.json", generation.get()));
        match self.write_json(&path, &pointer, PutMode::Create).await {
            Ok(()) => Ok(pointer),
            Err(RegistryError::Write { source: object_store::Error::AlreadyExists { .. }, .. }) => {
                // A store that wrote it and failed to say so was asked again, and found what it had written itself.
                match self.pointer(generation).await {
                    Ok(Some(found)) if found == pointer => Ok(pointer),
                    _ => Err(RegistryError::Conflict { generation }),
                }
            }
            Err(other) => Err(other),
        }
    }
}

/// The slot that is meant.
fn which(newest: Option<&Pointer>, slot: Option<&Slot>) -> Result<Slot, RegistryError> {
    let active = newest.map(|pointer| pointer.active.as_slice()).unwrap_or_default();
    match (slot, active) {
        (Some(slot), _) if active.iter().any(|active| active.slot == *slot) => Ok(slot.clone()),
        (Some(slot), _) => Err(RegistryError::NotActive { slot: slot.clone() }),
        (None, []) => Err(RegistryError::NoneActive),
        (None, [only]) => Ok(only.slot.clone()),
        (None, several) => {
            let slots: Vec<&str> = several.iter().map(|active| active.slot.as_str()).collect();
            Err(RegistryError::WhichSlot { slots: slots.join(", ") })
        }
    }
}
