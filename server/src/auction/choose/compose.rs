//! The composition of one creative for one request: sampled weights, and the bounded share of what is new.

use super::effects::{Effect, NODE_SPREAD, PAIR_SPREAD, Piece};
use super::features::weight;
use super::tree::{Composition, Tree, Weights};
use super::{Learned, Settings, TEMPERATURE, User};
use crate::plans::ELEMENTS_MAX;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

/// What sampling reads in one request.
pub(super) struct Scene<'a> {
    pub(super) learned: &'a Learned,
    /// The prior's weights as drawn for this request.
    pub(super) weights: &'a [f32],
    pub(super) user: User,
    /// Whether this request is one of the share that shows new elements.
    pub(super) exploring: bool,
    pub(super) settings: Settings,
}

fn sample<R: Rng + ?Sized>(effect: Effect, rng: &mut R) -> f64 {
    effect.mean + TEMPERATURE * effect.variance.sqrt() * rng.sample::<f64, _>(StandardNormal)
}

/// Elements that were shown too little to be judged, where their part has one that was shown enough: as bits, and the
/// least shown of them.
fn newcomers(tree: &Tree, shows: &[f64], settings: Settings) -> (u64, Option<usize>) {
    let mut new = 0_u64;
    let mut least: Option<usize> = None;
    for part in tree.parts() {
        let of_part = |node: &usize| part >> node & 1 == 1;
        let young = |node: &usize| shows[*node] < settings.explore_impressions;
        let members = || (0..shows.len()).filter(of_part);
        if members().all(|node| young(&node)) {
            continue;
        }
        for node in members().filter(young) {
            new |= 1 << node;
            if least.is_none_or(|least| shows[node] < shows[least]) {
                least = Some(node);
            }
        }
    }
    (new, least)
}

/// The best composition under a draw, and what it adds to the creative's rate of `rate`.
pub(super) fn compose<R: Rng + ?Sized>(tree: &Tree, scene: &Scene<'_>, rate: f64, rng: &mut R) -> (Composition, f64) {
    let mut nodes = [0.0; ELEMENTS_MAX];
    let mut shows = [0.0; ELEMENTS_MAX];
    for (at, node) in tree.nodes().iter().enumerate() {
        let effect = scene.learned.effects.get(Piece { key: node.key, relative: NODE_SPREAD }, rate);
        let traits = node.traits.iter().filter(|trait_| **trait_ != 0);
        let shared = traits.map(|trait_| weight(*trait_, &scene.user, scene.weights)).map(|(own, user)| own + user);
        nodes[at] = sample(effect, rng) + shared.sum::<f64>();
        shows[at] = effect.shows;
    }
    let (nodes, shows) = (&nodes[..tree.len()], &shows[..tree.len()]);
    let mut best = |allowed: u64| {
        let pair = |pair: super::tree::Pair| {
            sample(scene.learned.effects.get(Piece { key: pair.key, relative: PAIR_SPREAD }, rate), rng)
        };
        tree.best(Weights { nodes, allowed, pair })
    };
    let (new, least) = newcomers(tree, shows, scene.settings);
    // Constraints may leave nothing without new elements, or nothing with this one but other new ones; then those are
    // shown all the same. Every element stands in some composition.
    match least.filter(|_| scene.exploring) {
        Some(least) => {
            let with = !tree.siblings(least) | 1 << least;
            best(with & (!new | 1 << least)).or_else(|| best(with))
        }
        None => best(!new),
    }
    .or_else(|| best(u64::MAX))
    .unwrap_or_default()
}
