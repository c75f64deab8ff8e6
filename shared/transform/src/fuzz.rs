//! What must hold for any bytes: of a module's answer, of a batch on its way to one, of a cell and its column.
//!
//! Each function turns bytes into a case and panics where a promise is broken. The targets of `fuzz/` call them with what
//! coverage leads to, the tests below with what a fixed seed leads to and with the seeds that are kept.
//!
//! Must not: use what it judges. Bytes are read a second time by [`reference`], rows are judged by [`expect`].

mod case;
mod expect;
mod reference;

use crate::{
    Event, Outcome, Row,
    cells::{Cell, ColumnType},
    packed,
    row::Stamper,
};
use case::{Case, Source};

/// A module's answer, whatever is in it, is read as its layout says or refused as a whole: an outcome for each event, and
/// rows that say exactly what the module said.
pub fn decode(data: &[u8]) {
    let case = Case::new(data);
    let events: Vec<Event<'_>> = case.events.iter().map(case::OwnedEvent::borrow).collect();
    let events: Vec<&Event<'_>> = events.iter().collect();
    let decode = |stamper: Stamper<'_>| packed::decode(&case.answer, &events, stamper, case.message_bytes);
    let decoded = decode(case.stamper());
    assert_eq!(decoded, decode(case.stamper()), "the same bytes gave two answers");

    let said = reference::answer(&case.answer).filter(|said| said.len() == events.len());
    let (Ok(outcomes), Some(said)) = (&decoded, &said) else {
        assert_eq!(decoded.is_ok(), said.is_some(), "{decoded:?} of {said:?}");
        return;
    };
    assert_eq!(outcomes.len(), events.len());
    let unlimited = decode(Stamper { row_bytes: usize::MAX, ..case.stamper() }).expect("it was read before");
    for (((outcome, said), event), unlimited) in outcomes.iter().zip(said).zip(&events).zip(&unlimited) {
        if matches!(outcome, Outcome::Reject(rejection) if rejection.code == "row_too_large") {
            let Outcome::Rows(rows) = unlimited else { panic!("{unlimited:?} is too large") };
            let is_too_large = |row: &Row| row.json.len() > case.row_bytes;
            assert!(rows.iter().any(is_too_large), "none of {rows:?} has more than {} bytes", case.row_bytes);
        } else {
            assert_eq!(outcome, unlimited, "a limit has changed what fits");
        }
        expect::outcome(unlimited, said, event, &case);
        if let Outcome::Rows(rows) = outcome {
            assert!(rows.iter().all(|row| row.json.len() <= case.row_bytes));
        }
    }
}

/// Events of any kind reach the module as they are. Gives the batch and what went into it, for other readers.
pub fn batch(data: &[u8]) -> (Vec<u8>, Vec<case::OwnedEvent>) {
    let mut source = Source::new(data);
    let mut owned = Vec::new();
    while !source.is_empty() {
        owned.push(case::OwnedEvent::any(&mut source));
    }
    let events: Vec<Event<'_>> = owned.iter().map(case::OwnedEvent::borrow).collect();
    let batch = packed::encode(&events.iter().collect::<Vec<_>>());
    let read = reference::batch(&batch).expect("what the host writes can be read");
    assert_eq!(read, owned.iter().map(case::OwnedEvent::seen_by_module).collect::<Vec<_>>());
    (batch, owned)
}

/// A type is one that ClickHouse has and is written as it spells it, or is refused; a cell is JSON that says the same, or
/// is refused.
pub fn cell(data: &[u8]) {
    let mut source = Source::new(data);
    let (known, declared) = (source.byte(), source.text());
    if let Ok(column) = declared.parse::<ColumnType>() {
        let canonical = column.to_string();
        assert_eq!(canonical.parse(), Ok(column));
        let without_spaces = |text: &str| text.replace(char::is_whitespace, "");
        assert_eq!(without_spaces(&canonical), without_spaces(&declared), "another type");
    }
    let kinds = expect::Kind::all();
    let kind = kinds[usize::from(known) % kinds.len()];
    let column: ColumnType = kind.declared().parse().expect("a type that is supported");
    let (text, bytes, number) = (source.text(), source.bytes(), source.number());
    let scaled = Cell::Scaled(i128::from(number) << (source.byte() % 65), source.byte());
    for cell in [
        Cell::Null,
        Cell::Boolean(known.is_multiple_of(2)),
        Cell::Int(number),
        Cell::Uint(number.cast_unsigned()),
        Cell::Float,
        Cell::Decimal(&text),
        Cell::Text(&text),
        Cell::Bytes(&bytes),
        Cell::TimestampUs(number),
        scaled,
    ] {
        let mut json = Vec::new();
        match column.write(cell, &mut json) {
            Ok(()) => expect::cell(&json, cell, kind),
            Err(error) => assert!(!kind.fits(cell), "{cell:?} was refused: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, strategy::ValueTree, test_runner::RngSeed};
    use std::{fs, path::Path};

    /// The same cases each time: what the fuzzer finds is kept as a seed.
    fn config() -> ProptestConfig {
        ProptestConfig {
            cases: 4_096,
            rng_seed: RngSeed::Fixed(0x6f75_7466_6c6f_7721),
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..512)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn an_answer_is_read_as_its_layout_says_or_refused(data in data()) {
            decode(&data);
        }

        #[test]
        fn an_event_reaches_the_module_as_it_is(data in data()) {
            batch(&data);
        }

        #[test]
        fn a_cell_says_what_the_module_said_or_is_refused(data in data()) {
            cell(&data);
        }
    }

    #[test]
    fn kept_seeds_hold() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (target, run) in
            [("decode", decode as fn(&[u8])), ("batch", |data| drop(batch(data))), ("cell", cell)]
        {
            let seeds = fs::read_dir(seeds.join(target)).expect("each target has seeds");
            let seeds: Vec<_> = seeds.map(|seed| seed.expect("it can be listed").path()).collect();
            assert!(!seeds.is_empty(), "{target} has none");
            seeds.iter().for_each(|seed| run(&fs::read(seed).expect("it can be read")));
        }
    }

    /// Cases of every kind come up: a fixed seed that only leads to refusals would hold anything.
    #[test]
    fn the_cases_of_the_fixed_seed_lead_everywhere() {
        let mut runner = proptest::test_runner::TestRunner::new(config());
        let (mut rows, mut refused, mut whole) = (0, 0, 0);
        for _ in 0..config().cases {
            let data = data().new_tree(&mut runner).expect("bytes can be made").current();
            let case = Case::new(&data);
            let events: Vec<Event<'_>> = case.events.iter().map(case::OwnedEvent::borrow).collect();
            let events: Vec<&Event<'_>> = events.iter().collect();
            let Ok(outcomes) = packed::decode(&case.answer, &events, case.stamper(), case.message_bytes)
            else {
                continue;
            };
            whole += 1;
            for outcome in outcomes {
                match outcome {
                    Outcome::Rows(made) => rows += made.len(),
                    Outcome::Reject(_) => refused += 1,
                    Outcome::Skip => {}
                }
            }
        }
        assert!(
            whole > 1_000 && rows > 300 && refused > 300,
            "{whole} answers, {rows} rows, {refused} refused"
        );
    }
}
