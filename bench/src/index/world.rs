//! Seeded items and queries in clusters, as item vectors of a trained model lie.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

/// Spread of items about their cluster's centre, and of queries about theirs, relative to the centre's length.
const SPREAD: f32 = 0.6;

/// `count` unit vectors of `dim` entries, row after row, about `clusters` centres. Cluster sizes fall off: cluster `i` is drawn with
/// weight `1 / sqrt(i + 1)`.
pub(crate) fn vectors(seed: u64, count: usize, dim: usize, clusters: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(1);
    let centres: Vec<f32> = (0..clusters).flat_map(|_| unit(&mut rng, dim, None)).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut vectors = Vec::with_capacity(count * dim);
    for _ in 0..count {
        // The square of a uniform number has density 1 / sqrt.
        let share: f64 = rng.random::<f64>().powi(2);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "below clusters"
        )]
        let cluster = ((share * clusters as f64) as usize).min(clusters - 1);
        let centre = &centres[cluster * dim..][..dim];
        vectors.extend(unit(&mut rng, dim, Some(centre)));
    }
    vectors
}

fn unit(rng: &mut StdRng, dim: usize, centre: Option<&[f32]>) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "a dimension")]
    let scale = SPREAD / (dim as f32).sqrt();
    let mut vector: Vec<f32> = (0..dim)
        .map(|i| {
            let noise: f32 = rng.sample(StandardNormal);
            centre.map_or(noise, |centre| centre[i] + scale * noise)
        })
        .collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}
