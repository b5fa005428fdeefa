//! A creative as it was shown, and the text under which it travels with a bid and comes back with its click.

use super::features::Context;
use super::tree::Composition;
use crate::catalog::{Catalog, CreativeEntry};
use crate::ids::{CreativeSlot, Id};
use std::fmt::Write as _;

/// What was shown, to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The creative.
    pub creative: CreativeSlot,
    /// Its elements, if it has any.
    pub composition: Composition,
    /// What was known of the user.
    pub context: Context,
    /// Hash of the user; 0 for nobody.
    pub user: u128,
    /// When it was chosen or reported, Unix seconds.
    pub now_s: i64,
}

impl From<CreativeSlot> for Sight {
    fn from(creative: CreativeSlot) -> Self {
        Self { creative, ..Self::default() }
    }
}

/// Identifier of a creative as shown: each composition of a composed one has its own, so that an exchange's reviewers can
/// tell them apart.
#[must_use]
pub fn shown_id(entry: &CreativeEntry, composition: &Composition) -> String {
    let mut text = entry.record.id.as_str().to_owned();
    if let Some(tree) = entry.tree.as_deref().filter(|_| !composition.is_empty()) {
        text.push('~');
        tree.write(composition, &mut text);
    }
    text
}

impl Sight {
    /// The text that a notice signs: identifier, composition and context.
    #[must_use]
    pub fn write(&self, entry: &CreativeEntry) -> String {
        let mut text = shown_id(entry, &self.composition);
        if self.context != Context::default() {
            if self.composition.is_empty() {
                text.push('~');
            }
            // Writing to a String cannot fail.
            let _ = write!(text, ".{:04x}", self.context.0);
        }
        text
    }

    /// Finds what a text names: one made by [`Self::write`], the identifier of a composition, or a creative's own.
    #[must_use]
    pub fn find(catalog: &Catalog, text: &str) -> Option<Self> {
        if let Some(creative) = catalog.creative_slot(&Id::from(text)) {
            return Some(creative.into());
        }
        let (id, rest) = text.rsplit_once('~')?;
        let creative = catalog.creative_slot(&Id::from(id))?;
        let (codes, context) = rest.split_once('.').unwrap_or((rest, "0"));
        let tree = catalog.creative(creative)?.tree.as_deref();
        let composition = tree.map_or_else(Composition::default, |tree| tree.read(codes));
        let context = Context(u16::from_str_radix(context, 16).unwrap_or(0));
        Some(Self { creative, composition, context, ..Self::default() })
    }
}
