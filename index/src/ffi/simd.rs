//! Scores of rows, compiled for AVX2 beside the plain form and chosen at run time.

use crate::rows::{Rows, score_picks};

/// Inner products of the padded `query` with the picked rows, to `scores`.
pub(crate) fn score(query: &[f32], rows: &Rows, picks: &[u32], scores: &mut [f32]) {
    assert!(
        query.len() == rows.stride() && picks.len() <= scores.len(),
        "query padded like the rows, a score for each pick"
    );
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has both features the function is compiled for; it is otherwise a safe function.
        unsafe { x86::score(query, rows, picks, scores) };
        return;
    }
    score_picks::<false>(query, rows, picks, scores);
}

/// Scores of the picked rows of `codes` (numbers, and what 1 of each row stands for) under a query in whole numbers of a scale, to
/// `scores`. Rows are as long as the query, a multiple of [`STEP`](crate::rows::STEP), and the sum of a row's products fits 32 bits.
pub(crate) fn code_scores(query: (&[i16], f32), codes: (&[i8], &[f32]), picks: &[u32], scores: &mut [f32]) {
    assert!(picks.len() <= scores.len(), "a score for each pick");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the feature the function is compiled for; it is otherwise a safe function.
        unsafe { x86::code_scores(query, codes, picks, scores) };
        return;
    }
    for (&row, score) in picks.iter().zip(scores) {
        *score = plain_score(query, codes, row);
    }
}

#[inline(always)]
fn code_row(codes: &[i8], row: u32, stride: usize) -> &[i8] {
    &codes[row as usize * stride..][..stride]
}

#[expect(clippy::cast_precision_loss, reason = "the error bound of codes counts this rounding")]
#[inline(always)]
fn plain_score((query, scale): (&[i16], f32), (codes, scales): (&[i8], &[f32]), row: u32) -> f32 {
    let codes = code_row(codes, row, query.len());
    let dot: i32 = query.iter().zip(codes).map(|(&q, &c)| i32::from(q) * i32::from(c)).sum();
    dot as f32 * (scale * scales[row as usize])
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Rows, code_row, plain_score, score_picks};
    use std::arch::x86_64::{
        _mm_add_epi32, _mm_cvtepi32_ps, _mm_loadu_si128, _mm_mul_ps, _mm_set_ps, _mm_set1_ps, _mm_storeu_ps,
        _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_extracti128_si256, _mm256_hadd_epi32,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_setzero_si256,
    };

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn score(query: &[f32], rows: &Rows, picks: &[u32], scores: &mut [f32]) {
        score_picks::<true>(query, rows, picks, scores);
    }

    /// Four rows at once, so that their sums across the lanes share instructions.
    #[target_feature(enable = "avx2")]
    pub(super) fn code_scores(query: (&[i16], f32), codes: (&[i8], &[f32]), picks: &[u32], scores: &mut [f32]) {
        let (entries, scale) = query;
        let scale = _mm_set1_ps(scale);
        let (steps, tail) = entries.as_chunks::<16>();
        let (fours, rest) = picks.as_chunks::<4>();
        let (score_fours, score_rest) = scores[..picks.len()].as_chunks_mut::<4>();
        for (&[a, b, c, d], out) in fours.iter().zip(score_fours) {
            // Not by `map`: what it calls is compiled without the feature.
            let [ra, rb, rc, rd] = [
                code_row(codes.0, a, entries.len()).as_chunks::<16>().0,
                code_row(codes.0, b, entries.len()).as_chunks::<16>().0,
                code_row(codes.0, c, entries.len()).as_chunks::<16>().0,
                code_row(codes.0, d, entries.len()).as_chunks::<16>().0,
            ];
            let mut sums = [_mm256_setzero_si256(); 4];
            for ((((step, a), b), c), d) in steps.iter().zip(ra).zip(rb).zip(rc).zip(rd) {
                // SAFETY: a step is 16 numbers of 2 bytes.
                let step = unsafe { _mm256_loadu_si256(step.as_ptr().cast()) };
                for (sum, part) in sums.iter_mut().zip([a, b, c, d]) {
                    // SAFETY: a part is 16 numbers of 1 byte.
                    let part = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(step, _mm256_cvtepi8_epi16(part)));
                }
            }
            let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
            let whole = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            let of = |row: u32| codes.1[row as usize];
            let scales = _mm_mul_ps(scale, _mm_set_ps(of(d), of(c), of(b), of(a)));
            // SAFETY: `out` is 4 numbers of 4 bytes.
            unsafe { _mm_storeu_ps(out.as_mut_ptr(), _mm_mul_ps(_mm_cvtepi32_ps(whole), scales)) };
        }
        debug_assert!(tail.is_empty(), "padded");
        for (&row, score) in rest.iter().zip(score_rest) {
            *score = plain_score(query, codes, row);
        }
    }
}
