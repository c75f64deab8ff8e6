//! Masks for values of real events. Each value gets a random one when it first appears, and keeps it for the recording: what
//! was equal stays equal, what was different stays so where its form has enough values, and there is no key by which a
//! dictionary could be run through.
//!
//! Pure but for its random numbers. What is not masked stays byte for byte.

use anyhow::{Context, ensure};
use rand::{Rng, rngs::StdRng};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};
use uuid::Uuid;

/// Objects and arrays within each other; a payload that goes deeper is refused, since nothing may stay unmasked unseen.
const MAX_DEPTH: usize = 128;
/// A header may hold a shorter number, or hold a shorter text within another, by chance.
const TELLING_DIGITS: usize = 4;
const TELLING_PART: usize = 8;
/// A mask that is another value's already, or the value itself, is drawn anew so often: one digit has only ten masks.
const DRAWS: usize = 64;

/// The masks of one recording.
pub(super) struct Masks {
    random: StdRng,
    fields: Vec<Field>,
    book: HashMap<(Form, String), String>,
    taken: HashSet<(Form, String)>,
}

/// A field that is to be masked.
struct Field {
    /// As it was given: names, from the outermost, with points between. Arrays on the way are gone through.
    name: String,
    values: u64,
}

/// What a mask keeps of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    Bool,
    /// A number, or the text of one: sign, point, exponent, and the number of digits.
    Digits,
    Uuid,
    /// Any other text: the number of characters.
    Letters,
}

impl Masks {
    /// # Errors
    /// Names a field without a name in it.
    pub(super) fn new(fields: &[String], random: StdRng) -> anyhow::Result<Self> {
        let field = |name: &String| {
            let is_whole = name.split('.').all(|part| !part.is_empty());
            ensure!(
                is_whole,
                "--mask '{name}' is no field: write names with points between, such as shipping.email"
            );
            Ok(Field { name: name.clone(), values: 0 })
        };
        let fields = fields.iter().map(field).collect::<anyhow::Result<_>>()?;
        Ok(Self { random, fields, book: HashMap::new(), taken: HashSet::new() })
    }

    /// The JSON with the values of the fields masked; each keeps its type, null stays null.
    ///
    /// # Errors
    /// Where it is no JSON, or nested too deeply.
    pub(super) fn payload(&mut self, json: &str) -> anyhow::Result<String> {
        let root: &RawValue = serde_json::from_str(json)?;
        // By their place: two fields may mean the same value.
        let mut found: BTreeMap<usize, &str> = BTreeMap::new();
        for field in &mut self.fields {
            let path: Vec<&str> = field.name.split('.').collect();
            let mut values = Vec::new();
            find(root, &path, 0, &mut values)?;
            field.values += values.len() as u64;
            found.extend(
                values.into_iter().map(|value| (value.as_ptr() as usize - json.as_ptr() as usize, value)),
            );
        }
        let (mut masked, mut copied) = (String::with_capacity(json.len()), 0);
        for (at, value) in found {
            masked.push_str(&json[copied..at]);
            masked.push_str(&self.value(value)?);
            copied = at + value.len();
        }
        masked.push_str(&json[copied..]);
        Ok(masked)
    }

    /// An aggregate's id: masked where it is a masked value, or holds one.
    pub(super) fn key(&self, text: &str) -> String {
        self.known(text).cloned().unwrap_or_else(|| self.parts(text))
    }

    /// A header's text: as a key, but a short number is one by chance.
    pub(super) fn header(&self, text: &str) -> String {
        let telling = form(text) != Form::Digits || text.len() >= TELLING_DIGITS;
        self.known(text).filter(|_| telling).cloned().unwrap_or_else(|| self.parts(text))
    }

    /// How many values each field had, in the order of the fields.
    ///
    /// # Errors
    /// Names those that had none.
    pub(super) fn matched(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let missing: Vec<&str> =
            self.fields.iter().filter(|field| field.values == 0).map(|field| field.name.as_str()).collect();
        ensure!(
            missing.is_empty(),
            "no record has a field {}: nothing was written; a mask is written as in the payload, with points between, such as shipping.email",
            missing.join(", ")
        );
        Ok(self.fields.iter().map(|field| (field.name.clone(), field.values)).collect())
    }

    fn known(&self, text: &str) -> Option<&String> {
        self.book.get(&entry(form(text), text))
    }

    /// The text with each masked value in it exchanged, the longest first.
    fn parts(&self, text: &str) -> String {
        let within =
            |original: &&(Form, String)| original.1.len() >= TELLING_PART && text.contains(&original.1);
        let mut originals: Vec<&(Form, String)> = self.book.keys().filter(within).collect();
        originals.sort_by_key(|(_, original)| (std::cmp::Reverse(original.len()), original.clone()));
        originals
            .into_iter()
            .fold(text.to_owned(), |text, original| text.replace(&original.1, &self.book[original]))
    }

    /// A JSON value that holds no others.
    fn value(&mut self, json: &str) -> anyhow::Result<String> {
        Ok(match json.as_bytes().first() {
            Some(b'n') => json.to_owned(),
            Some(b't' | b'f') => self.mask(Form::Bool, json),
            Some(b'"') => {
                let text: String = serde_json::from_str(json).context("reading a text")?;
                // Letters, digits and dashes need no escape.
                format!("\"{}\"", self.mask(form(&text), &text))
            }
            _ => self.mask(Form::Digits, json),
        })
    }

    fn mask(&mut self, form: Form, text: &str) -> String {
        let entry = entry(form, text);
        if let Some(mask) = self.book.get(&entry) {
            return mask.clone();
        }
        let mut mask = draw(form, text, &mut self.random);
        for _ in 1..DRAWS {
            if mask != entry.1 && !self.taken.contains(&(form, mask.clone())) && !outgrows(&mask, text) {
                break;
            }
            mask = draw(form, text, &mut self.random);
        }
        self.taken.insert((form, mask.clone()));
        self.book.insert(entry, mask.clone());
        mask
    }
}

/// One value in the book: a UUID is the same in either case.
fn entry(form: Form, text: &str) -> (Form, String) {
    (form, if form == Form::Uuid { text.to_ascii_lowercase() } else { text.to_owned() })
}

/// Of a text.
fn form(text: &str) -> Form {
    /// With dashes.
    const UUID_LEN: usize = 36;
    if text.len() == UUID_LEN && Uuid::try_parse(text).is_ok() {
        return Form::Uuid;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_decimal = match digits.split_once('.') {
        Some((whole, fraction)) => is_number(whole) && is_number(fraction),
        None => is_number(digits),
    };
    if is_decimal { Form::Digits } else { Form::Letters }
}

fn draw(form: Form, text: &str, random: &mut StdRng) -> String {
    match form {
        Form::Bool => random.random::<bool>().to_string(),
        Form::Uuid => uuid::Builder::from_random_bytes(random.random()).into_uuid().to_string(),
        Form::Letters => text.chars().map(|_| char::from(random.random_range(b'a'..=b'z'))).collect(),
        Form::Digits => {
            let (mantissa, exponent) = text.split_at(text.find(['e', 'E']).unwrap_or(text.len()));
            let whole = mantissa.trim_start_matches('-').split('.').next().map_or(0, str::len);
            let mut at = 0;
            let digit = |character: char| {
                let Some(value) = character.to_digit(10) else { return character };
                at += 1;
                let range = match value {
                    // A number has no zero in front that it had not before, and hardly outgrows its type.
                    0 if at == 1 && whole > 1 => 0..=0,
                    _ if at == 1 && whole > 1 => 1..=(value - 1).max(1),
                    _ => 0..=9,
                };
                char::from_digit(random.random_range(range), 10).unwrap_or(character)
            };
            let mut mask: String = mantissa.chars().map(digit).collect();
            mask.push_str(exponent);
            mask
        }
    }
}

/// Of a whole number: JSON's readers would take the mask for a float.
fn outgrows(mask: &str, text: &str) -> bool {
    text.parse::<u64>().is_ok() && mask.parse::<u64>().is_err()
}

/// The values below a path that hold no others. `depth` is that of `json`.
fn find<'a>(json: &'a RawValue, path: &[&str], depth: usize, found: &mut Vec<&'a str>) -> anyhow::Result<()> {
    ensure!(depth <= MAX_DEPTH, "nested deeper than {MAX_DEPTH} levels");
    let text = json.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(text)?;
            for (name, value) in members {
                match path.split_first() {
                    Some((first, rest)) if *first == name => find(value, rest, depth + 1, found)?,
                    Some(_) => {}
                    None => find(value, path, depth + 1, found)?,
                }
            }
        }
        Some(b'[') => {
            for value in serde_json::from_str::<Vec<&RawValue>>(text)? {
                find(value, path, depth + 1, found)?;
            }
        }
        _ if path.is_empty() => found.push(text),
        _ => {}
    }
    Ok(())
}

/// An object's members where they stand, also those whose name comes twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests;
