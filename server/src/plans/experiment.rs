//! Two policies on one plan: each user is under one of them.

use super::{FieldError, PolicyKind};
use crate::ids::Id;
use serde::{Deserialize, Serialize};

/// A comparison of two policies within a plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Policy of the second arm; the plan's own policy has the first.
    pub policy: PolicyKind,
    /// Share of users, and of the money left when the experiment begins, that the second arm has; above 0, below 1.
    pub share: f64,
}

/// Side of an experiment that a user is on. Plans without one have the first arm only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arm {
    /// The plan's own policy.
    #[default]
    First,
    /// The experiment's.
    Second,
}

impl Experiment {
    /// The arm of a user: always the same for the same plan, and independent between plans.
    #[must_use]
    pub fn arm(&self, plan: &Id, user: &str) -> Arm {
        // FNV-1a over both names, then a finaliser so that every bit of the input reaches the high bits.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in plan.as_str().bytes().chain([0xff]).chain(user.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are left")]
        let at = (hash >> 11) as f64 / (1_u64 << 53) as f64;
        if at < self.share { Arm::Second } else { Arm::First }
    }

    pub(super) fn validate(&self) -> Result<(), FieldError> {
        // Below a hundredth an arm learns nothing.
        if (0.01..=0.99).contains(&self.share) {
            Ok(())
        } else {
            Err(FieldError::new("strategy.experiment.share", "must be from 0.01 to 0.99"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_split_by_the_share_always_alike_and_differently_for_each_plan() {
        let experiment = Experiment { policy: PolicyKind::Mpc, share: 0.3 };
        let (p, q) = (Id::from("p"), Id::from("q"));
        let second = |plan: &Id, user: &str| experiment.arm(plan, user) == Arm::Second;
        let (mut of_p, mut of_q, mut both) = (0, 0, 0);
        for n in 0..20_000 {
            let user = format!("user-{n}");
            let (a, b) = (second(&p, &user), second(&q, &user));
            assert_eq!(a, second(&p, &user));
            of_p += u32::from(a);
            of_q += u32::from(b);
            both += u32::from(a && b);
        }
        // Four standard deviations of 20,000 draws: 260; of both together at 0.09: 162.
        assert!(of_p.abs_diff(6_000) < 260 && of_q.abs_diff(6_000) < 260, "{of_p} {of_q}");
        assert!(both.abs_diff(1_800) < 162, "{both}: a user's arms in two plans have nothing to do with each other");
        assert!(experiment.validate().is_ok());
        for share in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(Experiment { share, ..experiment }.validate().is_err());
        }
    }
}
