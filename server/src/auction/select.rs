//! The auction inside one response: which candidates are offered for which slots.
//!
//! Candidates of all slots compete by [`Priced::strength`] in the one response currency. A slot gets at most one bid, a
//! plan bids at most once and an item is shown at most once in a response. Ties are broken by a hash under the request's
//! seed, so no plan is favoured by its position and equal requests are answered equally.

use super::price::Priced;
use crate::ids::{ItemSlot, PlanSlot};

/// One priced candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Position of the slot in the request.
    pub slot: usize,
    /// The plan that would pay.
    pub plan: PlanSlot,
    /// The item that would be shown.
    pub item: ItemSlot,
    /// Its price.
    pub priced: Priced,
}

/// Runs the internal auction step by step: [`strongest`](Self::strongest) names the strongest candidate left, and the caller, who
/// tries to hold the money, answers with [`accept`](Self::accept) or one of the refusals.
#[derive(Debug)]
pub struct Selection<'a> {
    candidates: &'a mut Vec<Candidate>,
    seed: u64,
}

impl<'a> Selection<'a> {
    /// Starts over `candidates`; those that can no longer win are removed from the list as the selection goes on.
    #[must_use]
    pub fn new(candidates: &'a mut Vec<Candidate>, seed: u64) -> Self {
        Self { candidates, seed }
    }

    /// The strongest candidate left.
    #[must_use]
    pub fn strongest(&self) -> Option<Candidate> {
        self.candidates.iter().copied().max_by_key(|candidate| self.rank(candidate))
    }

    /// The candidate is offered: its slot is filled, its plan and its item are out for the rest of the response.
    pub fn accept(&mut self, winner: &Candidate) {
        self.candidates
            .retain(|other| other.slot != winner.slot && other.plan != winner.plan && other.item != winner.item);
    }

    /// The plan cannot pay: none of its candidates is tried again. Returns them.
    pub fn refuse_plan(&mut self, plan: PlanSlot) -> Vec<Candidate> {
        self.candidates.extract_if(.., |other| other.plan == plan).collect()
    }

    /// This one candidate cannot be shown (no creative, final check): others of the plan may.
    pub fn refuse(&mut self, candidate: &Candidate) {
        self.candidates
            .retain(|other| (other.slot, other.plan, other.item) != (candidate.slot, candidate.plan, candidate.item));
    }

    fn rank(&self, candidate: &Candidate) -> (i64, u64, PlanSlot, ItemSlot) {
        let slot = u64::try_from(candidate.slot).unwrap_or(u64::MAX);
        let place = u64::from(candidate.plan) << 32 | u64::from(candidate.item);
        let tie = mix(self.seed ^ mix(place ^ mix(slot)));
        (candidate.priced.strength.0, tie, candidate.plan, candidate.item)
    }
}

/// The finalizer of SplitMix64: a bijection that spreads every input bit over all output bits.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
