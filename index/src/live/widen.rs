//! How much wider than tuned the lists are searched. Lists are tuned on queries made from the items; those of users may lie
//! farther from any item, and then the recall asked for is missed. Sampled searches tell, and this follows them.

use std::sync::atomic::{AtomicU32, Ordering};

/// Most lists visited, over what was tuned. Where that is too dear the planner scans.
const WIDEST: f32 = 16.0;
/// Step in the logarithm for a recall that is off by 1. A sample's recall scatters by about .1, and half again as many lists bring
/// about .03: at this step the factor is settled after some 30 samples and then wanders by a fifth.
const STEP: f32 = 0.5;

/// The logarithm of the factor, as bits. Samples come from one thread at a time.
#[derive(Debug)]
pub(super) struct Widening(AtomicU32);

impl Default for Widening {
    fn default() -> Self {
        Self(AtomicU32::new(0.0_f32.to_bits()))
    }
}

impl Widening {
    fn log(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// From 1, which is what was tuned, to 16.
    pub(super) fn factor(&self) -> f32 {
        self.log().exp()
    }

    /// Takes in the recall of one search of the lists.
    pub(super) fn follow(&self, recall: f32, wanted: f32) {
        let log = (self.log() + STEP * (wanted - recall)).clamp(0.0, WIDEST.ln());
        self.0.store(log.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_widen_and_hits_narrow_within_bounds() {
        let widening = Widening::default();
        widening.follow(1.0, 0.95);
        assert_eq!(widening.factor().to_bits(), 1.0_f32.to_bits(), "never narrower than tuned");
        widening.follow(0.75, 0.95);
        assert!((widening.factor() - 0.1_f32.exp()).abs() < 1e-6);
        widening.follow(1.0, 0.95);
        assert!((widening.factor() - 0.075_f32.exp()).abs() < 1e-6);
        (0..1_000).for_each(|_| widening.follow(0.0, 0.95));
        assert!((widening.factor() - WIDEST).abs() < 1e-3);
    }
}
