//! Elements of a composed creative: the alternatives for each of its parts, and which may stand together.

use super::{Creative, FieldError, Format};
use crate::ids::{ID_BYTES_MAX, Id};
use serde::{Deserialize, Serialize};

/// Most elements of one creative.
pub const ELEMENTS_MAX: usize = 64;
/// Most characters of an element's text.
pub const ELEMENT_CHARS_MAX: usize = 200;
/// Longest URL of a picture, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// What an element is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// How the rest is laid out: `picture`, `caption`, `split` or `text`.
    Template,
    /// A picture's URL.
    Picture,
    /// Headline.
    Title,
    /// Selling point.
    Text,
    /// Price badge, for example `-20%`.
    Badge,
    /// Call to action.
    Cta,
    /// Colour behind everything, `#rrggbb`.
    Background,
    /// Colour of texts, `#rrggbb`.
    Colour,
    /// `sans`, `serif`, `rounded`, `narrow` or `mono`.
    Font,
    /// Size of texts: `xs`, `s`, `m`, `l` or `xl`.
    Size,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 10] = [
        Self::Template,
        Self::Picture,
        Self::Title,
        Self::Text,
        Self::Badge,
        Self::Cta,
        Self::Background,
        Self::Colour,
        Self::Font,
        Self::Size,
    ];

    /// The values allowed, where they are a list.
    #[must_use]
    pub const fn values(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Template => Some(&["picture", "caption", "split", "text"]),
            Self::Font => Some(&["sans", "serif", "rounded", "narrow", "mono"]),
            Self::Size => Some(&["xs", "s", "m", "l", "xl"]),
            _ => None,
        }
    }

    const fn fits(self, format: &Format) -> bool {
        match format {
            Format::Banner { .. } => true,
            Format::Native { .. } => matches!(self, Self::Picture | Self::Title | Self::Text | Self::Cta),
            Format::Video { .. } => matches!(self, Self::Title | Self::Text),
        }
    }

    const fn is_colour(self) -> bool {
        matches!(self, Self::Background | Self::Colour)
    }
}

/// One alternative for a part. Its identifier is its key in the creative's `elements`, so that a merge patch
/// `{"elements": {"id": {...}}}` adds one and `{"elements": {"id": null}}` takes one away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Element {
    /// What it is for.
    pub part: Part,
    /// Text, URL, colour or name, as the part asks.
    pub value: String,
    /// Elements of one other part under which alone it may stand; empty: under any. Naming some makes that part the
    /// parent in the tree, and what the two bring together is learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub under: Vec<Id>,
}

fn is_colour(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Element {
    /// Checks what needs no other element; `field` is its JSON path.
    fn validate(&self, field: &str, creative: &Creative) -> Result<(), FieldError> {
        let wrong = |name: &str, fault: String| Err(FieldError::new(format!("{field}.{name}"), fault));
        if !self.part.fits(&creative.format) {
            return wrong("part", "this format has no such part".to_owned());
        }
        if let Some(values) = self.part.values() {
            if values.contains(&self.value.as_str()) {
                return Ok(());
            }
            return wrong("value", format!("must be one of {}", values.join(", ")));
        }
        match self.part {
            Part::Picture => {
                if self.value.len() > URL_BYTES_MAX || crate::render::web_url(&self.value).is_err() {
                    return wrong("value", format!("must be a web address of at most {URL_BYTES_MAX} bytes"));
                }
                // Whether a creative fits is decided by its own picture: another must load as safely.
                if is_https(main_url(&creative.format)) && !is_https(&self.value) {
                    return wrong("value", "must start with https://, as the creative's own address does".to_owned());
                }
                if ending(&self.value) != ending(main_url(&creative.format))
                    && matches!(creative.format, Format::Banner { .. })
                {
                    return wrong("value", "must have the same file ending as image_url".to_owned());
                }
            }
            part if part.is_colour() => {
                if !is_colour(&self.value) {
                    return wrong("value", "must be a colour such as #1a2b3c".to_owned());
                }
            }
            _ => {
                if !(1..=ELEMENT_CHARS_MAX).contains(&self.value.chars().count()) || self.value.trim().is_empty() {
                    return wrong("value", format!("must have 1 to {ELEMENT_CHARS_MAX} characters"));
                }
                if self.value.chars().any(char::is_control) {
                    return wrong("value", "must hold no control characters".to_owned());
                }
            }
        }
        Ok(())
    }
}

fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

fn ending(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit_once('.').map_or_else(String::new, |(_, ending)| ending.to_ascii_lowercase())
}

/// The address by which [`crate::render::fits`] judges the creative.
fn main_url(format: &Format) -> &str {
    match format {
        Format::Banner { image_url, .. } | Format::Native { image_url, .. } => image_url,
        Format::Video { media_url, .. } => media_url,
    }
}

impl Creative {
    /// Checks the elements, each and together.
    pub(super) fn validate_elements(&self) -> Result<(), FieldError> {
        if self.elements.len() > ELEMENTS_MAX {
            return Err(FieldError::new("elements", format!("must be at most {ELEMENTS_MAX}")));
        }
        for (id, element) in &self.elements {
            if !(1..=ID_BYTES_MAX).contains(&id.as_str().len()) {
                return Err(FieldError::new("elements", format!("each id must have 1 to {ID_BYTES_MAX} bytes")));
            }
            element.validate(&format!("elements.{id}"), self)?;
        }
        crate::auction::choose::Tree::compile(self).map(drop)
    }
}
