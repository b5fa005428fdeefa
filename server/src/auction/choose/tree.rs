//! A composed creative's elements as a tree, and its best composition by dynamic programming.
//!
//! Elements of one part are alternatives; a composition takes one of each part. A part whose elements say `under` hangs
//! below the part they name, and only the pairs they name may stand together. What a composition is worth is a sum over
//! its elements and its pairs, so the best one is found from the leaves up, each pair looked at once.

use super::features::{Traits, hash_text, traits};
use crate::ids::Id;
use crate::plans::{Creative, ELEMENTS_MAX, FieldError, Part};
use std::collections::HashMap;
use std::ops::Range;

/// Most parts of a composition.
pub const PARTS_MAX: usize = Part::ALL.len();
/// Most pairs (element, element it may stand under) of one creative.
pub const PAIRS_MAX: usize = 512;

/// An element in the tree.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Names what is learned about it: changes with its text.
    pub(super) key: u64,
    /// Names it in a composition's text, 24 bits.
    pub(super) code: u32,
    /// Its id in the creative.
    pub(super) id: Id,
    /// What it has in common with elements elsewhere.
    pub(super) traits: Traits,
    /// Pairs it may stand in: ranges of `pairs`; empty if it may stand under anything.
    pairs: Range<usize>,
}

/// A pair of elements that may stand together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    parent: usize,
    /// Names what is learned about it.
    pub(super) key: u64,
}

#[derive(Clone, Debug)]
struct Branch {
    parent: Option<usize>,
    nodes: Range<usize>,
}

/// A creative's elements, ready for choosing.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Parents before children.
    branches: Vec<Branch>,
    nodes: Vec<Node>,
    pairs: Vec<Pair>,
}

/// One element of each part, as positions in the tree. Empty for a creative without elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Composition {
    len: u8,
    nodes: [u8; PARTS_MAX],
}

impl Composition {
    /// Adds a node, in the order of the tree's branches.
    #[expect(clippy::cast_possible_truncation, reason = "a tree has at most 64 nodes")]
    fn push(&mut self, node: usize) {
        self.nodes[usize::from(self.len)] = node as u8;
        self.len += 1;
    }

    /// Positions in the tree.
    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes[..usize::from(self.len)].iter().map(|&node| usize::from(node))
    }

    /// True for a creative without elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Weights that a search for the best composition reads.
pub(super) struct Weights<'a, F> {
    /// By node.
    pub(super) nodes: &'a [f64],
    /// Which nodes may be taken.
    pub(super) allowed: u64,
    /// Weight of a pair, asked once for each.
    pub(super) pair: F,
}

impl Tree {
    /// Reads the elements of a creative; `None` in the place of a tree if it has none.
    ///
    /// # Errors
    /// The element at fault.
    pub fn compile(creative: &Creative) -> Result<Option<Self>, FieldError> {
        if creative.elements.is_empty() {
            return Ok(None);
        }
        let order = Order::of(creative)?;
        let base = hash_text(creative.id.as_str(), 0);
        let mut tree = Self { branches: Vec::new(), nodes: Vec::new(), pairs: Vec::new() };
        // Node by element id; parents come first, so a child finds its parents here.
        let mut places: HashMap<&str, usize> = HashMap::new();
        for &(part, parent) in &order.parts {
            let first = tree.nodes.len();
            for (id, record) in creative.elements.iter().filter(|(_, record)| record.part == part) {
                let own = hash_text(&record.value, hash_text(id.as_str(), 1));
                let (key, start) = (own ^ base.rotate_left(17), tree.pairs.len());
                for &parent in record.under.iter().filter_map(|id| places.get(id.as_str())) {
                    let of_parent = tree.nodes.get(parent).map_or(0, |node| node.key);
                    tree.pairs.push(Pair { parent, key: key.rotate_left(7) ^ of_parent });
                }
                places.insert(id.as_str(), tree.nodes.len());
                let (traits, code) = (traits(part, &record.value), u32::try_from(own >> 40).unwrap_or(0));
                tree.nodes.push(Node { key, code, id: id.clone(), traits, pairs: start..tree.pairs.len() });
            }
            let parent = parent.and_then(|parent| order.parts.iter().position(|&(part, _)| part == parent));
            tree.branches.push(Branch { parent, nodes: first..tree.nodes.len() });
        }
        tree.check(creative)?;
        Ok(Some(tree))
    }

    fn check(&self, creative: &Creative) -> Result<(), FieldError> {
        if self.pairs.len() > PAIRS_MAX {
            return Err(FieldError::new("elements", format!("may name at most {PAIRS_MAX} pairs by `under`")));
        }
        let mut codes: Vec<u32> = self.nodes.iter().map(|node| node.code).collect();
        codes.sort_unstable();
        if codes.windows(2).any(|two| two[0] == two[1]) {
            return Err(FieldError::new("elements", "two have the same short code: give one another id"));
        }
        let possible = |allowed: u64| {
            let nodes = &[0.0; ELEMENTS_MAX][..self.nodes.len()];
            self.best(Weights { nodes, allowed, pair: |_| 0.0 }).is_some()
        };
        if !possible(u64::MAX) {
            let fault = format!("no composition of creative `{}` satisfies every `under`", creative.id);
            return Err(FieldError::new("elements", fault));
        }
        let idle = (0..self.nodes.len()).find(|&node| !possible(!self.siblings(node) | 1 << node));
        idle.map_or(Ok(()), |node| {
            let fault = "stands in no composition that satisfies every `under`: it could never be shown";
            Err(FieldError::new(format!("elements.{}", self.nodes[node].id), fault))
        })
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a tree has at least one element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Ids of a composition's elements.
    pub fn elements<'a>(&'a self, composition: &'a Composition) -> impl Iterator<Item = &'a Id> + 'a {
        composition.nodes().filter_map(|node| self.nodes.get(node)).map(|node| &node.id)
    }

    /// The pairs that a composition holds.
    pub(super) fn pairs_of<'a>(&'a self, composition: &'a Composition) -> impl Iterator<Item = Pair> + 'a {
        let pairs = composition.nodes().filter_map(|node| self.nodes.get(node)).flat_map(|node| node.pairs.clone());
        pairs.map(|at| self.pairs[at]).filter(|pair| composition.nodes().any(|node| node == pair.parent))
    }

    /// Nodes of the same part as `node`, as bits.
    pub(super) fn siblings(&self, node: usize) -> u64 {
        let branch = self.branches.iter().find(|branch| branch.nodes.contains(&node));
        branch.map_or(0, |branch| bits(&branch.nodes))
    }

    /// Nodes of each part, as bits.
    pub(super) fn parts(&self) -> impl Iterator<Item = u64> + '_ {
        self.branches.iter().map(|branch| bits(&branch.nodes))
    }

    /// The composition with the highest sum and that sum; `None` if none is allowed. One look at each pair.
    pub(super) fn best(&self, mut weights: Weights<'_, impl FnMut(Pair) -> f64>) -> Option<(Composition, f64)> {
        let mut value = [f64::NEG_INFINITY; ELEMENTS_MAX];
        for (node, &weight) in weights.nodes.iter().enumerate().take(self.nodes.len()) {
            if weights.allowed >> node & 1 == 1 {
                value[node] = weight;
            }
        }
        // The best child of each node, by child branch.
        let mut choice = [[0_u8; ELEMENTS_MAX]; PARTS_MAX];
        let mut total = 0.0;
        for (number, branch) in self.branches.iter().enumerate().rev() {
            let parents = branch.parent.map_or(0..1, |parent| self.branches[parent].nodes.clone());
            let mut best = [f64::NEG_INFINITY; ELEMENTS_MAX];
            for child in branch.nodes.clone() {
                #[expect(clippy::cast_possible_truncation, reason = "a tree has at most 64 nodes")]
                let mut offer = |parent: usize, value: f64| {
                    if value > best[parent] {
                        best[parent] = value;
                        choice[number][parent] = child as u8;
                    }
                };
                let pairs = &self.pairs[self.nodes[child].pairs.clone()];
                if branch.parent.is_none() || pairs.is_empty() {
                    parents.clone().for_each(|parent| offer(parent, value[child]));
                } else {
                    pairs.iter().for_each(|&pair| offer(pair.parent, value[child] + (weights.pair)(pair)));
                }
            }
            if branch.parent.is_none() {
                total += best[0];
            } else {
                parents.for_each(|parent| value[parent] += best[parent]);
            }
        }
        if total == f64::NEG_INFINITY {
            return None;
        }
        let mut composition = Composition::default();
        for (number, branch) in self.branches.iter().enumerate() {
            let parent = branch.parent.map_or(0, |parent| usize::from(composition.nodes[parent]));
            composition.push(usize::from(choice[number][parent]));
        }
        Some((composition, total))
    }

    /// Writes a composition as letters that stand in a URL: four for each element, in the order of the tree.
    pub(super) fn write(&self, composition: &Composition, into: &mut String) {
        for node in composition.nodes().filter_map(|node| self.nodes.get(node)) {
            (0..4).for_each(|at| into.push(char::from(LETTERS[(node.code >> (18 - 6 * at) & 63) as usize])));
        }
    }

    /// Reads what [`Self::write`] wrote. Elements that are gone or changed since are left out.
    pub(super) fn read(&self, text: &str) -> Composition {
        let mut composition = Composition::default();
        for four in text.as_bytes().chunks_exact(4).take(PARTS_MAX) {
            let mut code = 0_u32;
            for letter in four {
                let Some(six) = LETTERS.iter().position(|known| known == letter) else { return composition };
                code = code << 6 | u32::try_from(six).unwrap_or(0);
            }
            if let Some(node) = self.nodes.iter().position(|node| node.code == code) {
                composition.push(node);
            }
        }
        composition
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn bits(nodes: &Range<usize>) -> u64 {
    nodes.clone().fold(0, |bits, node| bits | 1 << node)
}

/// The parts of a creative, parents first.
struct Order {
    parts: Vec<(Part, Option<Part>)>,
}

impl Order {
    fn of(creative: &Creative) -> Result<Self, FieldError> {
        let mut parents: Vec<(Part, Option<Part>)> = Vec::new();
        for (own, element) in &creative.elements {
            let place = match parents.iter().position(|&(part, _)| part == element.part) {
                Some(place) => place,
                None => {
                    parents.push((element.part, None));
                    parents.len() - 1
                }
            };
            let mut seen = std::collections::HashSet::new();
            for id in &element.under {
                let field = || format!("elements.{own}.under");
                let named = (creative.elements.get(id))
                    .map(|named| named.part)
                    .ok_or_else(|| FieldError::new(field(), format!("there is no element `{id}` in this creative")))?;
                if named == element.part || parents[place].1.is_some_and(|parent| parent != named) {
                    let fault = "all elements of a part must name elements of one and the same other part";
                    return Err(FieldError::new(field(), fault));
                }
                if !seen.insert(id) {
                    return Err(FieldError::new(field(), format!("names `{id}` twice")));
                }
                parents[place].1 = Some(named);
            }
        }
        let mut parts: Vec<(Part, Option<Part>)> = Vec::new();
        while parts.len() < parents.len() {
            let known = |part: Part| parts.iter().any(|&(known, _)| known == part);
            let next = parents.iter().find(|&&(part, parent)| !known(part) && parent.is_none_or(known));
            let Some(&next) = next else {
                return Err(FieldError::new("elements", "the parts must form a tree: `under` goes in a circle"));
            };
            parts.push(next);
        }
        Ok(Self { parts })
    }
}

#[cfg(test)]
mod tests;
