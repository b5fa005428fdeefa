//! What one key is: its name, its type and range, its meaning.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Type and range of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// A whole number within these bounds.
    Int(i64, i64),
    /// A number within these bounds.
    Float(f64, f64),
    /// `true` or `false`.
    Flag,
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// `host:port`.
    Address,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// A table from names to numbers within these bounds.
    Numbers(f64, f64),
}

impl Rule {
    /// What may stand here, in words.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Int(low, high) => format!("a whole number from {low} to {high}"),
            Self::Float(low, high) => format!("a number from {low} to {high}"),
            Self::Flag => "true or false".to_owned(),
            Self::Text | Self::Secret => "text in quotes".to_owned(),
            Self::Address => "an address and port, as in \"127.0.0.1:8080\"".to_owned(),
            Self::OneOf(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::Texts => "a list of texts, as in [\"a\", \"b\"]".to_owned(),
            Self::Numbers(low, high) => format!("a table of numbers from {low} to {high}, as in {{ EUR = 1.08 }}"),
        }
    }
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section, for example `http`.
    pub section: &'static str,
    /// Name within the section.
    pub name: &'static str,
    /// Type and range.
    pub rule: Rule,
    /// Meaning, one entry a line.
    pub doc: &'static [&'static str],
}

impl Key {
    /// `section.name`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// Text which is never printed, logged or shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True when nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "(set, not shown)" }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.shown())
    }
}

/// Writes a section once: struct, defaults and key table.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident $section:literal {
        $($(#[doc = $doc:literal])+ $field:ident : $ty:ty = $default:expr, $rule:expr;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $ty,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $name {
            /// The keys of this section.
            pub const KEYS: &'static [$crate::config::key::Key] = &[$(
                $crate::config::key::Key {
                    section: $section,
                    name: stringify!($field),
                    rule: $rule,
                    doc: &[$($doc),+],
                },
            )+];
        }
    };
}
pub(crate) use section;
