//! Typed, lenient reading of a [`Json`] tree: every error knows its path, every leniency is counted.

use super::cpm::{CpmFault, micros_from_cpm};
use super::json::Json;
use super::{BadRequest, Counter, Leniency};
use crate::money::{Currency, Micros, Rounding};
use std::borrow::Cow;
use std::fmt::Write;

/// Longest identifier, code or domain accepted, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1_024;
/// What stands for a lone surrogate ([`super::json::without_lone_surrogates`]).
const NO_CHARACTER: char = '\u{ffff}';
/// Longest list of codes, domains or numbers accepted.
pub(super) const LIST_MAX: usize = 20_000;

/// A place in the request: a chain of steps back to the root, turned into text only for an error.
#[derive(Clone, Copy)]
pub(super) struct At<'p> {
    parent: Option<&'p At<'p>>,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Root,
    Key(&'static str),
    Index(usize),
}

impl<'p> At<'p> {
    pub(super) const ROOT: At<'static> = At { parent: None, step: Step::Root };

    pub(super) fn key(&'p self, key: &'static str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    pub(super) fn index(&'p self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::Index(index) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "[{index}]");
            }
        }
    }

    /// An error here.
    pub(super) fn fail(&self, fault: impl Into<String>) -> BadRequest {
        let mut field = String::new();
        self.write(&mut field);
        if field.is_empty() {
            field.push_str("body");
        }
        BadRequest { field, fault: fault.into() }
    }
}

/// An object under a path.
#[derive(Clone, Copy)]
pub(super) struct Obj<'t, 'a, 'p> {
    fields: &'t [(&'static str, Json<'a>)],
    /// Where it stands.
    pub(super) at: At<'p>,
    /// Where leniencies are counted.
    pub(super) tally: &'t Counter,
}

impl<'t, 'a, 'p> Obj<'t, 'a, 'p> {
    /// Reads `value` as an object; an empty array counts as an empty object (as some encoders write it).
    pub(super) fn of(value: &'t Json<'a>, at: At<'p>, tally: &'t Counter) -> Result<Self, BadRequest> {
        match value {
            Json::Object(fields) => Ok(Self { fields, at, tally }),
            Json::List(list) if list.is_empty() => {
                tally.count(Leniency::EmptyListForObject);
                Ok(Self { fields: &[], at, tally })
            }
            other => Err(at.fail(format!("is {}; must be an object", other.type_name()))),
        }
    }

    /// The field's value; null counts as absent.
    pub(super) fn get(&self, key: &'static str) -> Option<&'t Json<'a>> {
        match self.fields.iter().rev().find(|(name, _)| *name == key) {
            Some((_, Json::Null)) => {
                self.tally.count(Leniency::Null);
                None
            }
            found => found.map(|(_, value)| value),
        }
    }

    /// An error on a field.
    pub(super) fn fail(&self, key: &'static str, fault: impl Into<String>) -> BadRequest {
        self.at.key(key).fail(fault)
    }

    fn wrong(&self, key: &'static str, value: &Json<'_>, wanted: &str) -> BadRequest {
        self.fail(key, format!("is {}; must be {wanted}", value.type_name()))
    }

    /// A child object.
    pub(super) fn object<'s>(&'s self, key: &'static str) -> Result<Option<Obj<'t, 'a, 's>>, BadRequest> {
        self.get(key).map(|value| Obj::of(value, self.at.key(key), self.tally)).transpose()
    }

    /// A child object of context: anything but an object is ignored and counted.
    pub(super) fn hint<'s>(&'s self, key: &'static str) -> Option<Obj<'t, 'a, 's>> {
        let value = self.get(key)?;
        let found = Obj::of(value, self.at.key(key), self.tally).ok();
        if found.is_none() {
            self.tally.count(Leniency::IgnoredValue);
        }
        found
    }

    /// A list; a lone value is not one.
    pub(super) fn list(&self, key: &'static str, max: usize) -> Result<&'t [Json<'a>], BadRequest> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Json::List(list)) if list.len() <= max => Ok(list),
            Some(Json::List(list)) => {
                Err(self.fail(key, format!("has {} entries; at most {max} are accepted", list.len())))
            }
            Some(other) => Err(self.wrong(key, other, "an array")),
        }
    }

    /// Calls `each` for every object of a list; null entries are skipped.
    pub(super) fn objects(
        &self,
        key: &'static str,
        max: usize,
        mut each: impl FnMut(Obj<'t, 'a, '_>) -> Result<(), BadRequest>,
    ) -> Result<(), BadRequest> {
        let at = self.at.key(key);
        for (index, value) in self.list(key, max)?.iter().enumerate() {
            if matches!(value, Json::Null) {
                self.tally.count(Leniency::Null);
                continue;
            }
            each(Obj::of(value, at.index(index), self.tally)?)?;
        }
        Ok(())
    }

    /// A list, or a lone scalar in the place of one.
    fn scalars(&self, key: &'static str) -> Result<&'t [Json<'a>], BadRequest> {
        match self.get(key) {
            Some(value @ (Json::Text(_) | Json::Int(_) | Json::Float(_))) => {
                self.tally.count(Leniency::ScalarForList);
                Ok(std::slice::from_ref(value))
            }
            _ => self.list(key, LIST_MAX),
        }
    }

    /// Non-empty texts of a list. Blank and null entries are dropped; any other type is an error: it may be a block.
    pub(super) fn texts(&self, key: &'static str) -> Result<Vec<String>, BadRequest> {
        let at = self.at.key(key);
        let mut out = Vec::new();
        for (index, value) in self.scalars(key)?.iter().enumerate() {
            if let Some(text) = text_of(value, at.index(index), self.tally)? {
                out.push(text.into_owned());
            }
        }
        Ok(out)
    }

    /// Non-negative integers of a list; negative ones match nothing and are dropped.
    pub(super) fn codes(&self, key: &'static str) -> Result<Vec<u32>, BadRequest> {
        let at = self.at.key(key);
        let mut out = Vec::new();
        for (index, value) in self.scalars(key)?.iter().enumerate() {
            match int_of(value, at.index(index), self.tally)?.map(u32::try_from) {
                Some(Ok(code)) => out.push(code),
                Some(Err(_)) => self.tally.count(Leniency::UnknownValue),
                None => {}
            }
        }
        Ok(out)
    }

    /// A text, or a number standing for one; blank counts as absent.
    pub(super) fn text(&self, key: &'static str) -> Result<Option<Cow<'t, str>>, BadRequest> {
        self.get(key).map_or(Ok(None), |value| text_of(value, self.at.key(key), self.tally))
    }

    /// A text of context: whatever is no text is ignored and counted.
    pub(super) fn hint_text(&self, key: &'static str) -> Option<String> {
        match self.text(key) {
            Ok(text) => text.map(Cow::into_owned),
            Err(_) => {
                self.tally.count(Leniency::IgnoredValue);
                None
            }
        }
    }

    /// An integer; a fraction is cut off, a numeric text is read, a boolean is 0 or 1.
    pub(super) fn int(&self, key: &'static str) -> Result<Option<i64>, BadRequest> {
        self.get(key).map_or(Ok(None), |value| int_of(value, self.at.key(key), self.tally))
    }

    /// An integer that must not be negative; huge ones are clamped.
    pub(super) fn natural(&self, key: &'static str) -> Result<Option<u32>, BadRequest> {
        match self.int(key)? {
            Some(number) if number < 0 => Err(self.fail(key, format!("is {number}; must be 0 or more"))),
            Some(number) => Ok(Some(u32::try_from(number).unwrap_or(u32::MAX))),
            None => Ok(None),
        }
    }

    /// A 0/1 flag; absent is `false`, any other number but 0 is `true`.
    pub(super) fn flag(&self, key: &'static str) -> Result<bool, BadRequest> {
        let number = self.int(key)?.unwrap_or(0);
        if !(0..=1).contains(&number) {
            self.tally.count(Leniency::UnknownValue);
        }
        Ok(number != 0)
    }

    /// A CPM price as micros per impression, rounded up; `Err(Negative)` is left to the caller.
    pub(super) fn cpm(&self, key: &'static str) -> Result<Option<Result<Micros, CpmFault>>, BadRequest> {
        let parsed = match self.get(key) {
            None => return Ok(None),
            Some(Json::Int(number)) => micros_from_cpm(&number.to_string(), Rounding::Up),
            Some(Json::Float(number)) => micros_from_cpm(&number.to_string(), Rounding::Up),
            Some(Json::Text(text)) => {
                self.tally.count(Leniency::TextForNumber);
                micros_from_cpm(text, Rounding::Up)
            }
            Some(other) => return Err(self.wrong(key, other, "a decimal CPM such as 2.35")),
        };
        match parsed {
            Ok(_) | Err(CpmFault::Negative) => Ok(Some(parsed)),
            Err(fault) => Err(self.fail(key, fault.to_string())),
        }
    }

    /// A currency code; absent or blank is `None`.
    pub(super) fn currency(&self, key: &'static str) -> Result<Option<Currency>, BadRequest> {
        match self.text(key)? {
            None => Ok(None),
            Some(code) => Currency::parse(&code).map(Some).ok_or_else(|| self.fail(key, NO_CURRENCY)),
        }
    }
}

/// The fault of a bad currency code.
pub(super) const NO_CURRENCY: &str = "is no currency code; must be three letters of ISO 4217, as in \"USD\"";

fn text_of<'t>(value: &'t Json<'_>, at: At<'_>, tally: &Counter) -> Result<Option<Cow<'t, str>>, BadRequest> {
    match value {
        Json::Null => {
            tally.count(Leniency::Null);
            Ok(None)
        }
        Json::Text(text) if text.len() > TEXT_BYTES_MAX => {
            Err(at.fail(format!("has {} bytes; at most {TEXT_BYTES_MAX} are accepted", text.len())))
        }
        Json::Text(text) if text.trim().is_empty() => Ok(None),
        // Where the value counts (an id is repeated, a block is obeyed), half a character is not the value that was meant.
        Json::Text(text) if text.contains(NO_CHARACTER) => {
            Err(at.fail("holds half of a surrogate pair; must be whole characters"))
        }
        Json::Text(text) => Ok(Some(Cow::Borrowed(text))),
        Json::Int(number) => {
            tally.count(Leniency::NumberForText);
            Ok(Some(Cow::Owned(number.to_string())))
        }
        Json::Float(number) => {
            tally.count(Leniency::NumberForText);
            Ok(Some(Cow::Owned(number.to_string())))
        }
        other => Err(at.fail(format!("is {}; must be a string", other.type_name()))),
    }
}

fn int_of(value: &Json<'_>, at: At<'_>, tally: &Counter) -> Result<Option<i64>, BadRequest> {
    match value {
        Json::Null => {
            tally.count(Leniency::Null);
            Ok(None)
        }
        Json::Int(number) => Ok(Some(*number)),
        Json::Float(number) => {
            tally.count(Leniency::FractionForInteger);
            Ok(Some(cut(*number)))
        }
        Json::Bool(value) => {
            tally.count(Leniency::BooleanForInteger);
            Ok(Some(i64::from(*value)))
        }
        Json::Text(text) if text.trim().is_empty() => {
            tally.count(Leniency::TextForNumber);
            Ok(None)
        }
        Json::Text(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => {
                tally.count(Leniency::TextForNumber);
                Ok(Some(cut(number)))
            }
            _ => Err(at.fail("is a string that is no number; must be an integer")),
        },
        other => Err(at.fail(format!("is {}; must be an integer", other.type_name()))),
    }
}

/// The integer part, and never 0 for a negative number: -0.5 must still be refused where -1 is.
#[expect(clippy::cast_possible_truncation, reason = "float to integer casts saturate, which is what is wanted")]
fn cut(number: f64) -> i64 {
    if number < 0.0 { number.floor() as i64 } else { number as i64 }
}
