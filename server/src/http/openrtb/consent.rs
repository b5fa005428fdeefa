//! What the privacy strings of a request allow.
//!
//! Sources: IAB Europe TCF v2 "TC string, core segment"; IAB CCPA "US Privacy String" (`1YYN`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Bit of purpose 1 in the core segment: after version (6), created and updated (36 each), CMP id and version (12 each), screen (6),
/// language (12), vendor list version (12), policy version (6), two flags and the special features (12).
const PURPOSES_AT: usize = 152;
/// Purposes without which a history must not choose an ad: create a profile for personalised advertising, and use it.
const PURPOSES: [usize; 2] = [3, 4];
/// Characters that hold them: whole groups of four, so that how the rest was filled up does not matter.
const PURPOSES_WITHIN: usize = 28;

/// True when a TC string carries consent for personalised advertising. False for anything that is not a TC string of version 2.
/// Vendors and publisher restrictions are not looked at.
pub(super) fn tcf_allows_profile(text: &str) -> bool {
    let mut bytes = [0_u8; PURPOSES_WITHIN / 4 * 3];
    let start = text.as_bytes().get(..PURPOSES_WITHIN);
    if start.is_none_or(|start| URL_SAFE_NO_PAD.decode_slice(start, &mut bytes).is_err()) {
        return false;
    }
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    // The version is the first six bits.
    bytes[0] >> 2 == 2 && PURPOSES.iter().all(|purpose| bit(PURPOSES_AT + purpose - 1))
}

/// True when a US privacy string says that the user opted out of sale.
pub(super) fn us_opted_out(text: &str) -> bool {
    matches!(text.as_bytes(), [b'1', _, b'Y' | b'y', _])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core segment of version 2 with the given purposes.
    fn tc(version: u8, purposes: &[usize]) -> String {
        let mut bytes = [0_u8; 30];
        bytes[0] = version << 2;
        for purpose in purposes {
            let at = PURPOSES_AT + purpose - 1;
            bytes[at / 8] |= 1 << (7 - at % 8);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn profile_needs_both_purposes_and_version_two() {
        assert!(tcf_allows_profile(&tc(2, &[1, 3, 4])));
        assert!(tcf_allows_profile(&format!("{}.IFoEUQQgAIQwgIwQABAEAAAAOIAACAIAAAA", tc(2, &[3, 4]))));
        for purposes in [&[1, 3][..], &[1, 2, 4, 5], &[]] {
            assert!(!tcf_allows_profile(&tc(2, purposes)), "{purposes:?}");
        }
        assert!(!tcf_allows_profile(&tc(1, &[3, 4])));
        // Strings whose last character carries bits beyond whole bytes, and short ones.
        assert!(tcf_allows_profile(&format!("{}B", tc(2, &[3, 4]))));
        assert!(!tcf_allows_profile(&tc(2, &[3, 4])[..27]));
        for text in ["", "x", "C", "not base64 !", &"A".repeat(20_000)] {
            assert!(!tcf_allows_profile(text));
        }
    }

    #[test]
    fn an_opt_out_of_sale_is_the_third_letter() {
        assert!(us_opted_out("1YYN") && us_opted_out("1NYY"));
        for text in ["1YNN", "1---", "1YY", "2YYN", ""] {
            assert!(!us_opted_out(text), "{text}");
        }
    }
}
