//! One creative as the model's levels see it: its features, its record, its pieces.

use super::compose::{Scene, compose};
use super::effects::{NODE_SPREAD, PAIR_SPREAD, Piece};
use super::features::{DIMS, add, base, place, weight};
use super::{Choice, Composition, Own, Prior, Rule, Seen, Sight};
use crate::catalog::CreativeEntry;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

/// A draw of one candidate; the caller names the creative.
pub(super) fn draw<R: Rng + ?Sized>(
    entry: &CreativeEntry,
    record: Seen,
    scene: &Scene<'_>,
    rate: f64,
    rng: &mut R,
) -> Choice {
    let rule = Rule::new(rate, scene.learned.spread);
    let own = own_of(entry, record, &rule, &scene.learned.prior);
    // What is not known of a feature's own weight is in the record's deviation; only the user's part is drawn.
    let taste: f64 =
        base(&entry.record.format).iter().map(|&feature| weight(feature, &scene.user, scene.weights).1).sum();
    let drawn = rule.draw(&own, rng.sample(StandardNormal)) + taste;
    let (composition, added) = match entry.tree.as_deref() {
        Some(tree) => compose(tree, scene, rate, rng),
        None => Default::default(),
    };
    let (expected, deviation) = (own.mean, own.total);
    Choice { creative: 0, composition, sampled: (drawn + added).clamp(0.0, 1.0), expected, deviation, fatigue: 1.0 }
}

/// Places and signs of the features that never vary within a creative, without a user's.
pub(super) fn places(entry: &CreativeEntry) -> [(usize, f64); 2] {
    base(&entry.record.format).map(|feature| {
        let (at, sign) = place(feature, 0);
        (at, f64::from(sign))
    })
}

/// What a creative's record makes of it.
pub(super) fn own_of(entry: &CreativeEntry, record: Seen, rule: &Rule, prior: &Prior) -> Own {
    let (expected, uncertainty) = prior.known(&places(entry));
    rule.own(record, expected, uncertainty)
}

/// Features of a sight as a row of the regression. A share `own` of those that never vary within a creative: the rest its
/// own record explains.
pub(super) fn row(entry: &CreativeEntry, sight: &Sight, own: f64) -> [f64; DIMS] {
    let mut row = [0.0; DIMS];
    let user = sight.context.user();
    base(&entry.record.format).iter().for_each(|&feature| add(feature, &user, own, &mut row));
    if let Some(tree) = entry.tree.as_deref() {
        let traits = sight.composition.nodes().filter_map(|node| tree.nodes().get(node)).flat_map(|node| node.traits);
        traits.filter(|trait_| *trait_ != 0).for_each(|trait_| add(trait_, &user, 1.0, &mut row));
    }
    row
}

/// What a composition is made of.
pub(super) fn pieces(entry: &CreativeEntry, composition: &Composition) -> Vec<Piece> {
    let Some(tree) = entry.tree.as_deref() else { return Vec::new() };
    let nodes = composition.nodes().filter_map(|node| tree.nodes().get(node));
    let nodes = nodes.map(|node| Piece { key: node.key, relative: NODE_SPREAD });
    let pairs = tree.pairs_of(composition).map(|pair| Piece { key: pair.key, relative: PAIR_SPREAD });
    nodes.chain(pairs).collect()
}
