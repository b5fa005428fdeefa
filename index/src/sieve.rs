//! The first pass of a scan: scores by codes, and of those the rows that may be among the best.

use crate::codes::{CodedQuery, Codes};
use std::cmp::Ordering;

/// Scores that are looked at together.
const LOOK: usize = 32;

/// Keeps every row that can be among the best `k` by full scores, and few others.
///
/// With `w` the window of the query, the `k` best by codes have full scores of at least `t - w / 2`, where `t` is the least of their scores
/// by codes; whoever is among the best `k` by full scores has as much, and by codes `t - w`.
#[derive(Debug)]
pub(crate) struct Sieve {
    query: CodedQuery,
    k: usize,
    /// Score by codes, row.
    kept: Vec<(f32, u32)>,
    /// Rows that score less cannot be among the best.
    floor: f32,
    /// Rows kept before the floor is raised again.
    room: usize,
}

fn better_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0)
}

impl Sieve {
    /// Rows that are worth a first pass: below so many for each result scoring all in full costs less.
    pub(crate) fn pays(eligible: usize, k: usize) -> bool {
        k > 0 && eligible > 40 * k + 1_024
    }

    /// For the best `k`, at least 1; `query` is padded.
    pub(crate) fn new(codes: &Codes, query: &[f32], k: usize) -> Self {
        let room = 4 * k + 256;
        let kept = Vec::with_capacity(room + 1);
        Self { query: codes.query(query), k, kept, floor: f32::NEG_INFINITY, room }
    }

    /// Takes in those of the rows in `picks` that are `eligible`; `scores` is for its use and as long. Few rows are asked about: only those
    /// that score enough.
    pub(crate) fn take(&mut self, codes: &Codes, picks: &[u32], scores: &mut [f32], eligible: impl Fn(u32) -> bool) {
        codes.score(&self.query, picks, scores);
        for (scores, picks) in scores.chunks(LOOK).zip(picks.chunks(LOOK)) {
            // Nearly always none: one answer for all of them takes a few instructions.
            if !scores.iter().fold(false, |any, &score| any | (score >= self.floor)) {
                continue;
            }
            for (&score, &row) in scores.iter().zip(picks) {
                if score >= self.floor && eligible(row) {
                    self.keep(score, row);
                }
            }
        }
    }

    fn keep(&mut self, score: f32, row: u32) {
        self.kept.push((score, row));
        if self.kept.len() > self.room {
            self.raise();
            // Many lie so close together that codes cannot tell them apart.
            self.room = self.room.max(2 * self.kept.len());
        }
    }

    fn raise(&mut self) {
        if self.kept.len() <= self.k {
            return;
        }
        let (_, least, _) = self.kept.select_nth_unstable_by(self.k - 1, better_first);
        let floor = least.0 - self.query.window();
        self.floor = floor;
        self.kept.retain(|&(score, _)| score >= floor);
    }

    /// The rows to be scored in full, ascending.
    pub(crate) fn into_rows(mut self) -> Vec<u32> {
        self.raise();
        let mut rows: Vec<u32> = self.kept.into_iter().map(|(_, row)| row).collect();
        rows.sort_unstable();
        rows
    }
}
