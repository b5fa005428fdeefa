//! A policy trained offline that moves the solver's multiplier inside a band.
//!
//! The state is what the solver does not model: how much time and money is left, how sure the model is, how its forecasts
//! have turned out, and which constraint binds. An action adds to the logarithm of the multiplier. The value of each
//! action is a quadratic form of the state, fitted offline (fitted Q iteration, `longbow-bench auction train-policy`). Outside the
//! range of states that it was trained on the policy does nothing; the return constraint is never crossed.

use serde::{Deserialize, Serialize};

/// Numbers that describe a state.
pub const FEATURES: usize = 6;
/// Terms of a quadratic form: constant, linear, squares and products.
pub const TERMS: usize = 1 + FEATURES + FEATURES * (FEATURES + 1) / 2;
/// Format of a policy file.
pub const FORMAT: u32 = 1;
/// Most actions.
const ACTIONS_MAX: usize = 16;

/// A state: share of time left, share of budget left, standard deviation of the price belief, logarithm of spend over
/// forecast spend so far, distance between the two constraints' exponents, running error of spend forecasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Features(pub [f64; FEATURES]);

impl Features {
    /// The terms of the quadratic form.
    #[must_use]
    pub fn terms(&self) -> [f64; TERMS] {
        let mut out = [1.0; TERMS];
        out[1..=FEATURES].copy_from_slice(&self.0);
        let mut at = 1 + FEATURES;
        for a in 0..FEATURES {
            for b in a..FEATURES {
                out[at] = self.0[a] * self.0[b];
                at += 1;
            }
        }
        out
    }
}

/// A trained policy, as its file holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlPolicy {
    /// [`FORMAT`].
    pub format: u32,
    /// What made it.
    pub made_by: String,
    /// Lowest and highest value of each feature in training.
    pub range: [[f64; 2]; FEATURES],
    /// What each action adds to the exponent; one of them is 0.
    pub actions: Vec<f64>,
    /// Value of each action: weights of the terms.
    pub weights: Vec<Vec<f64>>,
    /// How much better than doing nothing an action must look to be taken.
    pub margin: f64,
}

impl RlPolicy {
    /// Checks a policy that was read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self) -> Result<Self, String> {
        if self.format != FORMAT {
            return Err(format!("format {} is not {FORMAT}: train the policy again", self.format));
        }
        let count = self.actions.len();
        if count == 0 || count > ACTIONS_MAX || self.weights.len() != count {
            return Err(format!("needs 1 to {ACTIONS_MAX} actions and as many rows of weights"));
        }
        if self.actions.iter().any(|x| x.is_nan() || x.abs() > 0.7) || !self.actions.contains(&0.0) {
            return Err("actions must lie in [-0.7, 0.7] and hold 0".to_owned());
        }
        let sound = |row: &Vec<f64>| row.len() == TERMS && row.iter().all(|x| x.is_finite());
        if !self.weights.iter().all(sound) || !self.margin.is_finite() {
            return Err(format!("weights must be finite, {TERMS} for each action"));
        }
        Ok(self)
    }

    /// True when every feature lies in the trained range.
    #[must_use]
    pub fn knows(&self, state: &Features) -> bool {
        state.0.iter().zip(&self.range).all(|(x, [low, high])| (low..=high).contains(&x))
    }

    /// What to add to the exponent: the best action if it beats doing nothing by the margin, 0 outside the trained range.
    #[must_use]
    pub fn adjust(&self, state: &Features) -> f64 {
        if !self.knows(state) {
            return 0.0;
        }
        let terms = state.terms();
        let value = |row: &Vec<f64>| row.iter().zip(&terms).map(|(w, t)| w * t).sum::<f64>();
        let mut nothing = f64::NEG_INFINITY;
        let mut best = (f64::NEG_INFINITY, 0.0);
        for (action, row) in self.actions.iter().zip(&self.weights) {
            let worth = value(row);
            if *action == 0.0 {
                nothing = worth;
            }
            if worth > best.0 {
                best = (worth, *action);
            }
        }
        if best.0 > nothing + self.margin { best.1 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RlPolicy {
        let mut weights = vec![vec![0.0; TERMS]; 3];
        weights[2][1] = 1.0; // rises with the first feature
        RlPolicy {
            format: FORMAT,
            made_by: "a test".into(),
            range: [[0.0, 1.0]; FEATURES],
            actions: vec![-0.1, 0.0, 0.1],
            weights,
            margin: 0.2,
        }
    }

    #[test]
    fn acts_inside_its_range_and_only_beyond_the_margin() {
        let policy = policy().check().unwrap();
        assert_eq!(policy.adjust(&Features([0.5; FEATURES])), 0.1);
        assert_eq!(policy.adjust(&Features([0.1; FEATURES])), 0.0, "within the margin");
        let mut outside = Features([0.5; FEATURES]);
        outside.0[3] = 1.5;
        assert_eq!(policy.adjust(&outside), 0.0, "never trained there");
        outside.0[3] = f64::NAN;
        assert_eq!(policy.adjust(&outside), 0.0);
    }

    #[test]
    fn a_damaged_policy_is_refused() {
        assert!(RlPolicy { format: 9, ..policy() }.check().is_err());
        assert!(RlPolicy { actions: vec![0.1, 0.2, 0.3], ..policy() }.check().is_err());
        assert!(RlPolicy { weights: vec![vec![0.0; 3]; 3], ..policy() }.check().is_err());
        assert!(RlPolicy { weights: vec![vec![f64::NAN; TERMS]; 3], ..policy() }.check().is_err());
    }
}
