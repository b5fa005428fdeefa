//! Prices as OpenRTB writes them: decimal numbers for a thousand impressions, read without a float in between. (Written they are
//! the float of [`Micros::as_cpm`], which prints as the same decimal.)

use crate::money::{Micros, Rounding};

/// Highest price accepted, in micros per impression: one billion currency units CPM.
pub const PRICE_MICROS_MAX: i64 = 1_000_000_000_000;

/// Longest price text looked at, in bytes.
const TEXT_BYTES_MAX: usize = 64;
/// Significant digits kept; later ones only decide the rounding.
const DIGITS_MAX: u32 = 30;

/// Why a text is no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpmFault {
    /// No text at all: the exchange did not know the value.
    #[error("is empty; a decimal CPM such as 2.35 is needed")]
    Empty,
    /// Not a decimal number (`NaN`, hexadecimal, an encrypted value, ...).
    #[error("is no decimal number; write a CPM such as 2.35")]
    NotDecimal,
    /// Below zero.
    #[error("is negative; a price must be 0 or more")]
    Negative,
    /// Above [`PRICE_MICROS_MAX`].
    #[error("is above 1000000000 CPM, the highest price accepted")]
    TooLarge,
}

/// Micros **per impression** of a decimal CPM text, rounded as asked where it has more than three decimals.
///
/// Exact: 2.3 gives 2,300 and 2.3001 gives 2,300 down and 2,301 up.
///
/// # Errors
/// [`CpmFault`] when the text is no decimal number between 0 and one billion.
pub fn micros_from_cpm(text: &str, rounding: Rounding) -> Result<Micros, CpmFault> {
    let parts = Decimal::parse(text)?;
    if parts.mantissa == 0 {
        return Ok(Micros::ZERO);
    }
    if parts.negative {
        return Err(CpmFault::Negative);
    }
    let shift = parts.exponent + 3; // CPM to micros per impression is a factor of 10^3.
    let (whole, rest) = if shift >= 0 {
        let factor = power_of_ten(shift.unsigned_abs()).ok_or(CpmFault::TooLarge)?;
        (parts.mantissa.checked_mul(factor).ok_or(CpmFault::TooLarge)?, false)
    } else {
        match power_of_ten(shift.unsigned_abs()) {
            Some(divisor) => (parts.mantissa / divisor, parts.mantissa % divisor != 0),
            None => (0, true),
        }
    };
    let up = u128::from(rounding == Rounding::Up && (rest || parts.sticky));
    let micros = i64::try_from(whole + up).map_err(|_| CpmFault::TooLarge)?;
    if micros > PRICE_MICROS_MAX { Err(CpmFault::TooLarge) } else { Ok(Micros(micros)) }
}

fn power_of_ten(exponent: u32) -> Option<u128> {
    10u128.checked_pow(exponent)
}

/// `mantissa * 10^exponent`, with a note of non-zero digits cut off below.
struct Decimal {
    negative: bool,
    mantissa: u128,
    exponent: i32,
    sticky: bool,
}

impl Decimal {
    fn parse(text: &str) -> Result<Self, CpmFault> {
        if text.is_empty() {
            return Err(CpmFault::Empty);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(CpmFault::NotDecimal);
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (digits, power) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
            None => (unsigned, 0),
        };
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if integer.is_empty() && fraction.is_empty() {
            return Err(CpmFault::NotDecimal);
        }
        let mut out = Self { negative, mantissa: 0, exponent: power, sticky: false };
        let mut kept = 0u32;
        for (fractional, byte) in
            integer.bytes().map(|byte| (false, byte)).chain(fraction.bytes().map(|byte| (true, byte)))
        {
            if !byte.is_ascii_digit() {
                return Err(CpmFault::NotDecimal);
            }
            if kept == DIGITS_MAX {
                out.sticky |= byte != b'0';
                out.exponent += i32::from(!fractional);
                continue;
            }
            out.mantissa = out.mantissa * 10 + u128::from(byte - b'0');
            kept += u32::from(out.mantissa != 0);
            out.exponent -= i32::from(fractional);
        }
        Ok(out)
    }
}

fn parse_exponent(text: &str) -> Result<i32, CpmFault> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CpmFault::NotDecimal);
    }
    text.strip_prefix('+').unwrap_or(text).parse().map_err(|_| CpmFault::NotDecimal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_texts_are_exact() {
        let cases = [
            ("2.3", 2_300, 2_300),
            ("2.3001", 2_300, 2_301),
            ("0.0004", 0, 1),
            ("1e-05", 0, 1),
            ("1.5E3", 1_500_000, 1_500_000),
            (".5", 500, 500),
            ("7.", 7_000, 7_000),
            ("-0.0", 0, 0),
            ("1000000000", PRICE_MICROS_MAX, PRICE_MICROS_MAX),
            ("2.30000000000000000000000000000000000000000001", 2_300, 2_301),
            ("0.00000000000000000000000000000000000000000001", 0, 1),
            ("0e999", 0, 0),
        ];
        for (text, down, up) in cases {
            assert_eq!(micros_from_cpm(text, Rounding::Down), Ok(Micros(down)), "{text}");
            assert_eq!(micros_from_cpm(text, Rounding::Up), Ok(Micros(up)), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_named() {
        for text in
            ["NaN", "inf", "0x1f", "1,5", "1.2.3", "--1", "1e", "e5", ".", "-", "1 ", " 1", "1_000", "MTIz", "١"]
        {
            assert_eq!(micros_from_cpm(text, Rounding::Up), Err(CpmFault::NotDecimal), "{text}");
        }
        assert_eq!(micros_from_cpm("", Rounding::Up), Err(CpmFault::Empty));
        assert_eq!(micros_from_cpm("-0.001", Rounding::Up), Err(CpmFault::Negative));
        for text in ["1000000000.0001", "1e30", "9e999", "99999999999999999999999999999999999999999999"] {
            assert_eq!(micros_from_cpm(text, Rounding::Up), Err(CpmFault::TooLarge), "{text}");
        }
    }

    /// The decimal CPM of a price per impression, without trailing zeros: 2,500 micros is `2.5`.
    fn cpm_text(price: Micros) -> String {
        let (whole, thousandths) = (price.0 / 1_000, price.0 % 1_000);
        let mut text = format!("{whole}.{thousandths:03}");
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
        text
    }

    proptest! {
        #[test]
        fn text_and_micros_are_inverse(micros in 0i64..=PRICE_MICROS_MAX) {
            let text = cpm_text(Micros(micros));
            prop_assert_eq!(micros_from_cpm(&text, Rounding::Down), Ok(Micros(micros)));
            prop_assert_eq!(micros_from_cpm(&text, Rounding::Up), Ok(Micros(micros)));
            // The float form written into a response prints as the very same decimal.
            let printed = serde_json::to_string(&Micros(micros).as_cpm()).unwrap();
            prop_assert_eq!(printed.strip_suffix(".0").unwrap_or(&printed), text);
        }

        #[test]
        fn any_text_is_safe(text in ".{0,80}") {
            let _ = micros_from_cpm(&text, Rounding::Up);
        }
    }
}
