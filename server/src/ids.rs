//! Identifiers: what callers write, and the dense numbers the hot path uses in their place.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// Longest identifier accepted from outside, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Position of an item in the catalogue and bit of every eligibility bitmap, whatever model serves. 0 is never an item.
pub type ItemSlot = u32;
/// Row of an item in the item table of one model. Row 0 is the padding row and never an item.
pub type ItemRow = u32;
/// Position of a plan in the catalogue. Stable for the life of the process; deleted slots are not reused.
pub type PlanSlot = u32;
/// Position of a creative in the catalogue.
pub type CreativeSlot = u32;

/// A catalogue-independent key of an item, 64 bits, as histories store it: a decimal integer keeps its value, any other
/// text is hashed (SHA-256, first eight bytes). In JSON an item id may be an integer or a string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey(pub i64);

impl ItemKey {
    /// The key of an identifier's text; `None` if it is empty or longer than [`ID_BYTES_MAX`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > ID_BYTES_MAX {
            return None;
        }
        if let Ok(number) = text.parse::<i64>()
            && number.to_string() == text
        {
            return Some(Self(number));
        }
        let digest = Sha256::digest(text.as_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest[..8]);
        Some(Self(i64::from_le_bytes(first)))
    }
}

impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemKey({})", self.0)
    }
}

/// Accepts an integer or a string wherever an identifier is expected and keeps its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub Arc<str>);

impl Id {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl Id {
    /// Whether the text can stand in a path, as the id of a record must: proxies and clients take `/`, `\`, `.` and `..` for the
    /// path's own, percent-encoded or not, and control characters never arrive.
    ///
    /// # Errors
    /// What is allowed.
    pub fn check_addressable(&self) -> Result<(), &'static str> {
        let text = self.as_str();
        if matches!(text, "." | "..") || text.contains(['/', '\\']) || text.chars().any(char::is_control) {
            return Err("may hold any characters but /, \\ and control characters, and must not be . or ..");
        }
        Ok(())
    }
}
impl From<&str> for Id {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl Serialize for Id {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an identifier: a string of 1 to {ID_BYTES_MAX} bytes or an integer")
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Id, E> {
                Ok(Id(v.to_string().into()))
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Id, E> {
                Ok(Id(v.to_string().into()))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Id, E> {
                if v.is_empty() || v.len() > ID_BYTES_MAX {
                    return Err(E::invalid_length(v.len(), &self));
                }
                Ok(Id(v.into()))
            }
        }
        d.deserialize_any(Visitor)
    }
}
