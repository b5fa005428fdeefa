//! What there is to look at: items on shelves, one shelf a category, and how a visitor with something in mind picks from one.

use super::DIM;
use super::taxonomy::{Taxonomy, near, skewed};
use crate::plans::Item;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// Items a visitor sees before picking the one nearest to what is wished for.
const SEEN_PER_PICK: usize = 32;
/// How much more often the first items of a shelf are seen: a uniform draw to this power.
const POPULARITY: f64 = 2.0;
/// Spread of the appeal of items, in logits per unit of content.
const APPEAL: f32 = 2.0;
/// Spread of what content does not tell about an item, in logits.
const QUIRK: f64 = 0.05;

/// One category's items, popular ones first.
#[derive(Debug)]
pub(super) struct Shelf {
    /// Centre of the category's content vectors.
    pub(super) centre: Vec<f32>,
    /// Numbers of its items in the market.
    pub(super) items: Vec<u32>,
}

/// All items by number, which is their id less one.
#[derive(Debug)]
pub struct Market {
    pub(super) shelves: Vec<Shelf>,
    shelf_of: Vec<u16>,
    vectors: Vec<f32>,
    appeal: Vec<f32>,
}

impl Market {
    /// Puts items on shelves. Ids are the numbers from 1 in the order of `items`.
    ///
    /// # Panics
    /// Never for items made by [`super::items`]: every category is one of the taxonomy's.
    #[must_use]
    pub fn new(taxonomy: &Taxonomy, items: &[Item]) -> Self {
        let mut by_code: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (number, item) in (0..).zip(items) {
            by_code.entry(item.categories.first().map_or("", String::as_str)).or_default().push(number);
        }
        let mut shelf_of = vec![0; items.len()];
        let mut shelves = Vec::with_capacity(by_code.len());
        for category in &taxonomy.categories {
            let Some(items) = by_code.remove(category.code.as_str()) else { continue };
            let place = u16::try_from(shelves.len()).unwrap_or(u16::MAX);
            items.iter().for_each(|&item| shelf_of[item as usize] = place);
            shelves.push(Shelf { centre: category.centre.clone(), items });
        }
        let vectors = items.iter().flat_map(|item| item.vector.iter().copied()).collect();
        let appeal = near(&[0.0; DIM], 1.0, &mut StdRng::seed_from_u64(0xa99ea1));
        Self { shelves, shelf_of, vectors, appeal }
    }

    /// Content vector of an item.
    pub(super) fn vector(&self, item: u32) -> &[f32] {
        let start = item as usize * DIM;
        &self.vectors[start..start + DIM]
    }

    /// The shelf an item stands on.
    pub(super) fn shelf_of(&self, item: u32) -> usize {
        self.shelf_of[item as usize].into()
    }

    /// Any item of a shelf, popular ones more often.
    pub(super) fn any(&self, shelf: usize, rng: &mut StdRng) -> u32 {
        let items = &self.shelves[shelf].items;
        items[skewed(rng, POPULARITY, items.len())]
    }

    /// What a visitor picks: the nearest to the wish among a few items seen.
    pub(super) fn pick(&self, shelf: usize, wish: &[f32], rng: &mut StdRng) -> u32 {
        let mut best = (f32::NEG_INFINITY, 0);
        for _ in 0..SEEN_PER_PICK {
            let item = self.any(shelf, rng);
            let closeness = dot(self.vector(item), wish);
            if closeness > best.0 {
                best = (closeness, item);
            }
        }
        best.1
    }

    /// How much an item appeals to everybody, in logits: most of it a matter of its content, a little its own.
    pub(super) fn appeal(&self, item: u32) -> f64 {
        let hash = u64::from(item).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let uniform = ((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64 / (1_u64 << 53) as f64;
        f64::from(APPEAL * dot(self.vector(item), &self.appeal)) + QUIRK * 12.0_f64.sqrt() * (uniform - 0.5)
    }
}

/// Inner product.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
