//! Which dead letters an operator means, and which of those may go: decided from their heads alone, in the order in which
//! they lie. Pure.

use super::{
    audit::{Action, Entry},
    letter::{Head, LetterId},
};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use time::OffsetDateTime;

/// What fits everything that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// These alone, where any is named.
    pub ids: BTreeSet<LetterId>,
    pub stage: Option<String>,
    pub code: Option<String>,
    /// A digest, or the beginning of one.
    pub module: Option<String>,
    pub slot: Option<String>,
    /// Put aside at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Put aside before this time.
    pub until: Option<OffsetDateTime>,
}

impl Filter {
    /// Whether anything is asked for.
    pub fn is_empty(&self) -> bool {
        let texts = [&self.stage, &self.code, &self.module, &self.slot];
        self.ids.is_empty() && texts.iter().all(|text| text.is_none()) && self.since.or(self.until).is_none()
    }

    /// Ids left aside.
    pub fn fits(&self, head: &Head) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let cause = &head.cause;
        is(&self.stage, Some(&cause.stage))
            && is(&self.code, Some(&cause.code))
            && is(&self.slot, cause.slot.as_deref())
            && self.module.as_deref().is_none_or(|wanted| {
                cause.module.as_deref().is_some_and(|found| !wanted.is_empty() && found.starts_with(wanted))
            })
            && self.since.is_none_or(|since| head.at >= since)
            && self.until.is_none_or(|until| head.at < until)
    }
}

/// What a redrive leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A record that was given up so often stays.
    pub max_attempts: u32,
    /// Sends it all the same.
    pub force: bool,
    /// Sends a letter although an earlier one of its key stays.
    pub out_of_order: bool,
}

/// What becomes of one letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is in its way.
    Planned,
    /// Done, and in the audit.
    Redriven {
        to: String,
    },
    Discarded,
    /// Done before, by somebody.
    AlreadyRedriven {
        to: String,
        who: String,
        when: String,
    },
    AlreadyDiscarded {
        who: String,
        when: String,
    },
    /// An earlier letter of its key is open and stays.
    HeldByEarlier {
        earlier: LetterId,
    },
    /// Its record keeps coming back.
    TooManyAttempts,
    /// It was named, and is none of those that are meant as well.
    DoesNotFit,
    /// There is no such letter, or not any more.
    Unknown,
    /// Kafka does not take it.
    Refused {
        reason: String,
    },
    /// Work stopped before it. It is open.
    NotReached,
    /// Work stopped at it, and whether it is done is not known. The next run finds out.
    Uncertain,
}

impl Verdict {
    fn already(entry: &Entry) -> Self {
        let format = &time::format_description::well_known::Rfc3339;
        let (who, when) = (entry.who.clone(), entry.when.format(format).unwrap_or_default());
        match entry.action {
            Action::Redrive => Self::AlreadyRedriven { to: entry.result.clone(), who, when },
            Action::Discard => Self::AlreadyDiscarded { who, when },
        }
    }

    /// As in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Redriven { .. } => "redriven",
            Self::Discarded => "discarded",
            Self::AlreadyRedriven { .. } => "already_redriven",
            Self::AlreadyDiscarded { .. } => "already_discarded",
            Self::HeldByEarlier { .. } => "held_by_earlier",
            Self::TooManyAttempts => "too_many_attempts",
            Self::DoesNotFit => "does_not_fit",
            Self::Unknown => "unknown",
            Self::Refused { .. } => "refused",
            Self::NotReached => "not_reached",
            Self::Uncertain => "uncertain",
        }
    }

    /// Whether somebody who wanted `action` has what was wanted, by now or before.
    pub fn is_well(&self, action: Action) -> bool {
        match self {
            Self::Planned => true,
            Self::Redriven { .. } | Self::AlreadyRedriven { .. } => action == Action::Redrive,
            Self::Discarded | Self::AlreadyDiscarded { .. } => action == Action::Discard,
            _ => false,
        }
    }
}

/// One letter that an operator means.
#[derive(Clone, Debug)]
pub struct Item {
    pub id: LetterId,
    /// None where there is no such letter.
    pub head: Option<Head>,
    pub verdict: Verdict,
}

/// The first open letters of a key that stay, each by the transform that it is for.
type Lanes = Vec<(Option<String>, LetterId)>;

/// Decides on the letters of one topic, one after the other.
#[derive(Debug)]
pub struct Planner<'a> {
    action: Action,
    filter: &'a Filter,
    policy: Policy,
    stay: Stay,
    items: Vec<Item>,
    unseen: BTreeSet<&'a LetterId>,
}

impl<'a> Planner<'a> {
    /// `topic` holds the letters; ids of other topics are left aside.
    pub fn new(topic: &str, action: Action, filter: &'a Filter, policy: Policy) -> Self {
        let unseen = filter.ids.iter().filter(|id| id.topic == topic).collect();
        Self { action, filter, policy, stay: Stay::default(), items: Vec::new(), unseen }
    }

    /// The next letter, and what closed it.
    pub fn see(&mut self, head: Head, closed: Option<&Entry>) {
        let named = self.unseen.remove(&head.id);
        let fits = self.filter.fits(&head);
        let selected = fits && (named || self.filter.ids.is_empty());
        let verdict = match closed {
            Some(entry) if named => Some(Verdict::already(entry)),
            Some(_) => None,
            None if !selected => {
                self.stay.add(&head);
                named.then_some(Verdict::DoesNotFit)
            }
            None => Some(self.decide(&head)),
        };
        if let Some(verdict) = verdict {
            self.items.push(Item { id: head.id.clone(), head: Some(head), verdict });
        }
    }

    fn decide(&mut self, head: &Head) -> Verdict {
        if self.action == Action::Discard {
            return Verdict::Planned;
        }
        let Policy { max_attempts, force, out_of_order } = self.policy;
        let verdict = if head.attempts >= max_attempts && !force {
            Verdict::TooManyAttempts
        } else {
            match self.stay.before(head).filter(|_| !out_of_order) {
                Some(earlier) => Verdict::HeldByEarlier { earlier },
                None => return Verdict::Planned,
            }
        };
        self.stay.add(head);
        verdict
    }

    /// The letters that are meant, in their order; those that were named and don't exist come last.
    pub fn finish(mut self) -> Vec<Item> {
        let unknown =
            self.unseen.into_iter().map(|id| Item { id: id.clone(), head: None, verdict: Verdict::Unknown });
        self.items.extend(unknown);
        self.items
    }
}

/// Open letters that stay where they are, as far as they hold others back.
#[derive(Debug, Default)]
pub(super) struct Stay(HashMap<(i32, Vec<u8>), Lanes>);

impl Stay {
    pub(super) fn add(&mut self, head: &Head) {
        // Without a key there is no order.
        let Some(key) = &head.key else { return };
        let lanes = self.0.entry((head.id.partition, key.clone())).or_default();
        if !lanes.iter().any(|(slot, _)| *slot == head.cause.slot) {
            lanes.push((head.cause.slot.clone(), head.id.clone()));
        }
    }

    /// The earlier letter that this one must not overtake. Letters for different transforms have no order between them;
    /// one that names none is for all.
    pub(super) fn before(&self, head: &Head) -> Option<LetterId> {
        let lanes = self.0.get(&(head.id.partition, head.key.clone()?))?;
        let slot = &head.cause.slot;
        let mut same = lanes.iter().filter(|(other, _)| other.is_none() || slot.is_none() || other == slot);
        same.next().map(|(_, id)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::letter::Cause, *};

    const POLICY: Policy = Policy { max_attempts: 5, force: false, out_of_order: false };

    fn head(offset: i64, key: &str, code: &str, slot: Option<&str>, attempts: u32) -> Head {
        let cause = Cause {
            topic: "t".to_owned(),
            stage: "module".to_owned(),
            code: code.to_owned(),
            module: Some("ab12cd".to_owned()),
            slot: slot.map(str::to_owned),
        };
        Head {
            id: id(offset),
            at: at(offset),
            cause,
            reason: String::new(),
            first: None,
            attempts,
            redriven_from: None,
            key: (key != "-").then(|| key.as_bytes().to_vec()),
        }
    }

    fn id(offset: i64) -> LetterId {
        LetterId { topic: "t.dlq".to_owned(), partition: 0, offset }
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }

    fn code(code: &str) -> Filter {
        Filter { code: Some(code.to_owned()), ..Filter::default() }
    }

    /// The verdicts as `offset: verdict`.
    fn plan(action: Action, filter: &Filter, policy: Policy, heads: Vec<Head>) -> Vec<String> {
        let mut planner = Planner::new("t.dlq", action, filter, policy);
        heads.into_iter().for_each(|head| planner.see(head, None));
        let told = |item: Item| match item.verdict {
            Verdict::HeldByEarlier { earlier } => format!("{}: after {}", item.id.offset, earlier.offset),
            verdict => format!("{}: {verdict:?}", item.id.offset),
        };
        planner.finish().into_iter().map(told).collect()
    }

    #[test]
    fn each_condition_leaves_out_what_does_not_fit() {
        let letter = head(7, "k", "no_total", Some("orders"), 1);
        let some = |text: &str| Some(text.to_owned());
        let none = Filter::default();
        let fits = [
            Filter { stage: some("module"), ..none.clone() },
            Filter { code: some("no_total"), ..none.clone() },
            Filter { module: some("ab12"), ..none.clone() },
            Filter { slot: some("orders"), ..none.clone() },
            Filter { since: Some(at(7)), until: Some(at(8)), ..none.clone() },
        ];
        let not = [
            Filter { stage: some("trap"), ..none.clone() },
            Filter { code: some("no"), ..none.clone() },
            Filter { module: some("12"), ..none.clone() },
            Filter { module: some(""), ..none.clone() },
            Filter { slot: some("items"), ..none.clone() },
            Filter { since: Some(at(8)), ..none.clone() },
            Filter { until: Some(at(7)), ..none.clone() },
            Filter { stage: some("module"), code: some("other"), ..none.clone() },
        ];
        for filter in fits {
            assert!(filter.fits(&letter) && !filter.is_empty(), "{filter:?}");
        }
        for filter in not {
            assert!(!filter.fits(&letter) && !filter.is_empty(), "{filter:?}");
        }
        assert!(none.fits(&letter) && none.is_empty());
    }

    #[test]
    fn a_letter_waits_for_the_earlier_ones_of_its_key_that_stay() {
        let heads = || {
            vec![
                head(0, "a", "x", Some("s"), 1),
                head(1, "a", "y", Some("s"), 1),
                head(2, "b", "y", Some("s"), 1),
                head(3, "-", "x", Some("s"), 1),
                head(4, "-", "y", Some("s"), 1),
                head(5, "a", "y", Some("s"), 1),
                head(6, "", "x", None, 1),
                head(7, "", "y", Some("s"), 1),
            ]
        };
        let redrive = |filter: &Filter, policy| plan(Action::Redrive, filter, policy, heads());

        let held = ["1: after 0", "2: Planned", "4: Planned", "5: after 0", "7: after 6"];
        assert_eq!(redrive(&code("y"), POLICY), held);
        assert!(redrive(&Filter::default(), POLICY).iter().all(|line| line.ends_with("Planned")));
        let out_of_order = Policy { out_of_order: true, ..POLICY };
        assert!(redrive(&code("y"), out_of_order).iter().all(|line| line.ends_with("Planned")));
        let discarded = plan(Action::Discard, &code("y"), POLICY, heads());
        assert!(discarded.iter().all(|line| line.ends_with("Planned")), "{discarded:?}");
    }

    #[test]
    fn letters_for_different_transforms_have_no_order_between_them() {
        let heads = |second| vec![head(0, "a", "x", Some("orders"), 1), head(1, "a", "y", second, 1)];
        let redrive = |second| plan(Action::Redrive, &code("y"), POLICY, heads(second));

        assert_eq!(redrive(Some("items")), ["1: Planned"]);
        assert_eq!(redrive(Some("orders")), ["1: after 0"]);
        assert_eq!(redrive(None), ["1: after 0"]);
    }

    #[test]
    fn a_record_that_keeps_coming_back_stays_and_so_do_those_behind_it() {
        let heads =
            || vec![head(0, "a", "x", None, 4), head(1, "b", "x", None, 5), head(2, "b", "x", None, 1)];
        let redrive = |policy| plan(Action::Redrive, &code("x"), policy, heads());

        assert_eq!(redrive(POLICY), ["0: Planned", "1: TooManyAttempts", "2: after 1"]);
        assert_eq!(redrive(Policy { force: true, ..POLICY }), ["0: Planned", "1: Planned", "2: Planned"]);
        let out_of_order = Policy { out_of_order: true, ..POLICY };
        assert_eq!(redrive(out_of_order), ["0: Planned", "1: TooManyAttempts", "2: Planned"]);
    }

    #[test]
    fn what_was_named_is_answered_and_what_is_closed_holds_nobody() {
        let entry = |offset, action| Entry {
            action,
            who: "ann".to_owned(),
            why: "mended".to_owned(),
            when: at(100),
            result: "t.retry/0/3".to_owned(),
            letter_at: at(offset),
        };
        let filter = Filter { ids: [0, 1, 2, 9].map(id).into(), ..code("x") };
        let mut planner = Planner::new("t.dlq", Action::Redrive, &filter, POLICY);
        planner.see(head(0, "a", "x", None, 1), Some(&entry(0, Action::Redrive)));
        planner.see(head(1, "a", "x", None, 1), None);
        planner.see(head(2, "b", "y", None, 1), None);
        planner.see(head(3, "c", "x", None, 1), Some(&entry(3, Action::Discard)));

        let items = planner.finish();

        let redriven = Verdict::AlreadyRedriven {
            to: "t.retry/0/3".to_owned(),
            who: "ann".to_owned(),
            when: "1970-01-01T00:01:40Z".to_owned(),
        };
        for item in &items {
            let json = serde_json::to_value(&item.verdict).expect("plain data");
            assert_eq!(json["result"], item.verdict.name());
        }
        let verdicts: Vec<_> = items.iter().map(|item| (item.id.offset, &item.verdict)).collect();
        let expected =
            [(0, &redriven), (1, &Verdict::Planned), (2, &Verdict::DoesNotFit), (9, &Verdict::Unknown)];
        assert_eq!(verdicts, expected);
        assert!(redriven.is_well(Action::Redrive) && !redriven.is_well(Action::Discard));
    }
}
