//! What creatives, and what users, have in common: the features that the shared prior knows.
//!
//! A feature is a number made by hashing; it has a weight of its own and one for each quantity known of the user, all in
//! the `DIMS` places of one table. Forms have places of their own, the rest share by hash with a random sign, so that
//! what collides cancels on average.

use crate::plans::{Format, Part};

/// Places in the table.
pub(super) const DIMS: usize = 128;
/// Forms: banner, video, native.
pub(super) const FORMS: usize = 3;
/// Quantities known of a user: six of taste, one of activity.
const USER: usize = 7;
/// Most traits of an element.
const TRAITS_MAX: usize = 3;

/// Traits of an element: hashed, 0 for none.
pub(super) type Traits = [u64; TRAITS_MAX];

/// What is known of a user, in 16 bits, so that it can travel with a bid and come back with its click.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context(pub u16);

/// The same as numbers around zero.
pub(super) type User = [f32; USER];

const KNOWN: u16 = 1 << 15;

impl Context {
    /// From the user's vector (any length) and the number of events known: the signs of six fixed random projections, and
    /// how active the user is. No events: nothing is known.
    #[must_use]
    pub fn of(vector: &[f32], events: usize) -> Self {
        if events == 0 {
            return Self::default();
        }
        let mut bits = KNOWN;
        for axis in 0..6_u64 {
            let sum: f32 =
                vector.iter().zip(0_u64..).map(|(x, at)| if mix(axis << 32 | at) & 1 == 0 { *x } else { -x }).sum();
            bits |= u16::from(sum > 0.0) << axis;
        }
        let activity = u16::try_from(events.ilog10()).unwrap_or(4).min(4);
        Self(bits | activity << 6)
    }

    pub(super) fn user(self) -> User {
        let mut user = [0.0; USER];
        if self.0 & KNOWN != 0 {
            for (axis, value) in user.iter_mut().enumerate().take(6) {
                *value = if self.0 >> axis & 1 == 1 { 1.0 } else { -1.0 };
            }
            user[6] = (f32::from(self.0 >> 6 & 7) - 2.0) / 2.0;
        }
        user
    }
}

pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The same on every machine and in every version: what was learned is kept under it.
pub(super) fn hash_text(text: &str, seed: u64) -> u64 {
    let start = mix(seed ^ 0xcbf2_9ce4_8422_2325);
    mix(text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Place and sign of a feature's weight: its own (`quantity` 0) or the one for a quantity of the user.
pub(super) fn place(feature: u64, quantity: u64) -> (usize, f32) {
    if feature < FORMS as u64 && quantity == 0 {
        return (usize::try_from(feature).unwrap_or(0), 1.0);
    }
    let hash = mix(feature.wrapping_mul(31).wrapping_add(quantity + 1));
    let at = usize::try_from(hash % (DIMS - FORMS) as u64).unwrap_or(0) + FORMS;
    (at, if hash >> 63 == 0 { 1.0 } else { -1.0 })
}

/// What a feature adds under these weights: for everybody, and for this user on top.
pub(super) fn weight(feature: u64, user: &User, weights: &[f32]) -> (f64, f64) {
    let (at, sign) = place(feature, 0);
    let own = weights[at] * sign;
    let mut sum = 0.0;
    for (quantity, value) in (1..).zip(user).filter(|(_, value)| **value != 0.0) {
        let (at, sign) = place(feature, quantity);
        sum += weights[at] * sign * value;
    }
    (f64::from(own), f64::from(sum))
}

/// Adds a feature to a dense row: its own weight counts `own`, those of the user fully.
pub(super) fn add(feature: u64, user: &User, own: f64, row: &mut [f64; DIMS]) {
    let (at, sign) = place(feature, 0);
    row[at] += own * f64::from(sign);
    for (quantity, value) in (1..).zip(user).filter(|(_, value)| **value != 0.0) {
        let (at, sign) = place(feature, quantity);
        row[at] += f64::from(sign * value);
    }
}

/// Number of a form; also its feature.
pub(super) const fn form(format: &Format) -> u32 {
    match format {
        Format::Banner { .. } => 0,
        Format::Video { .. } => 1,
        Format::Native { .. } => 2,
    }
}

/// Features of a creative apart from its elements: its form, and its size or length.
pub(super) fn base(format: &Format) -> [u64; 2] {
    let size = match format {
        Format::Banner { w, h, .. } => u64::from(*w) << 32 | u64::from(*h) << 2,
        Format::Video { duration_s, .. } => u64::from(*duration_s) << 2 | 1,
        Format::Native { description, icon_url, .. } => {
            u64::from(!description.is_empty()) << 2 | u64::from(!icon_url.is_empty()) << 3 | 2
        }
    };
    [u64::from(form(format)), mix(size + 1_000)]
}

/// What an element has in common with others of its part, wherever they stand.
pub(super) fn traits(part: Part, value: &str) -> Traits {
    let seed = 100 + part as u64;
    let named = |trait_: &str| hash_text(trait_, seed);
    match part {
        Part::Picture => [0; TRAITS_MAX],
        Part::Title | Part::Text | Part::Badge | Part::Cta => {
            let length = value.chars().count();
            let length = ["short", "middle", "long"][usize::from(length > 15) + usize::from(length > 40)];
            let digits = value.chars().any(|c| c.is_ascii_digit());
            let loud = value.contains(['!', '?']);
            [named(length), if digits { named("digits") } else { 0 }, if loud { named("loud") } else { 0 }]
        }
        _ => [named(&value.to_ascii_lowercase()), 0, 0],
    }
}
