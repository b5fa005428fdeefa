//! Money: integer micros of a currency, and exchange rates that never pass through a float.
//!
//! A [`Micros`] is one millionth of a unit of some currency. Prices inside the server are **per impression**; OpenRTB
//! prices are CPM (per thousand impressions), so 2.50 USD CPM is 2,500 micros an impression.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// An amount in millionths of a currency unit. The currency travels beside it ([`Currency`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

/// Largest budget, bid, price or order value: a thousand million currency units. Sums of these stay far inside `i64`.
pub const AMOUNT_MAX: Micros = Micros(1_000_000_000_000_000);

impl Micros {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Sum, or `None` beyond the range of `i64`.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, or `None` beyond the range of `i64`.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `part / whole` of this amount, rounded up. `whole` must be above 0 and `part` from 0 to `whole`.
    #[must_use]
    pub fn share(self, part: Self, whole: Self) -> Self {
        let product = i128::from(self.0) * i128::from(part.0);
        let up = (product + i128::from(whole.0) - 1).div_euclid(i128::from(whole.0.max(1)));
        // At most `self`, so it fits.
        Self(i64::try_from(up).unwrap_or(self.0))
    }

    /// The CPM price in currency units.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "prices are far below 2^53")]
    pub fn as_cpm(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", magnitude / 1_000_000, magnitude % 1_000_000)
    }
}

/// An ISO-4217 alphabetic code, upper case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// US dollars, OpenRTB's default.
    pub const USD: Self = Self(*b"USD");

    /// Parses a three-letter code, any case.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let bytes: [u8; 3] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphabetic).then(|| Self(bytes.map(|b| b.to_ascii_uppercase())))
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let code = String::deserialize(d)?;
        Self::parse(&code).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{code}` is no currency code: use three letters of ISO 4217, as in \"USD\""
            ))
        })
    }
}

/// Which way a conversion rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Towards zero: for what we pay.
    Down,
    /// Away from zero: for floors that must be reached.
    Up,
}

/// Exchange rates: millionths of a millionth of a US dollar for one unit of each currency, so that units worth next to nothing keep
/// their digits.
#[derive(Clone, Debug)]
pub struct FxTable {
    usd_picos_per_unit: BTreeMap<Currency, i64>,
}

impl FxTable {
    /// The rate of a dollar.
    pub const DOLLAR: i64 = 1_000_000_000_000;

    /// A table from rates given as 10^-12 US dollars for one unit. Rates must be positive; USD is always [`FxTable::DOLLAR`].
    #[must_use]
    pub fn new(rates: impl IntoIterator<Item = (Currency, i64)>) -> Self {
        let mut usd_picos_per_unit: BTreeMap<_, _> = rates.into_iter().filter(|&(_, rate)| rate > 0).collect();
        usd_picos_per_unit.insert(Currency::USD, Self::DOLLAR);
        Self { usd_picos_per_unit }
    }

    /// `amount` of `from` in `to`, exactly rounded; `None` if a rate is unknown or the result does not fit.
    #[must_use]
    pub fn convert(&self, amount: Micros, from: Currency, to: Currency, rounding: Rounding) -> Option<Micros> {
        if from == to {
            return Some(amount);
        }
        let from_rate = i128::from(*self.usd_picos_per_unit.get(&from)?);
        let to_rate = i128::from(*self.usd_picos_per_unit.get(&to)?);
        let product = i128::from(amount.0) * from_rate;
        let quotient = match rounding {
            Rounding::Down => product / to_rate,
            Rounding::Up => product / to_rate + if product % to_rate == 0 { 0 } else { product.signum() },
        };
        i64::try_from(quotient).ok().map(Micros)
    }

    /// True when a rate for this currency is known.
    #[must_use]
    pub fn knows(&self, currency: Currency) -> bool {
        self.usd_picos_per_unit.contains_key(&currency)
    }
}

impl Default for FxTable {
    fn default() -> Self {
        Self::new([])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_rounds_up_and_never_passes_the_whole() {
        assert_eq!(Micros(3_000_000).share(Micros(1), Micros(20_100)), Micros(150));
        assert_eq!(Micros(7).share(Micros(2_500), Micros(2_500)), Micros(7));
        assert_eq!(Micros(7).share(Micros(0), Micros(2_500)), Micros(0));
        assert_eq!(Micros(i64::MAX).share(Micros(i64::MAX - 1), Micros(i64::MAX)), Micros(i64::MAX - 1));
    }

    #[test]
    fn units_worth_next_to_nothing_keep_their_digits() {
        let tiny = Currency::parse("XTS").unwrap();
        let table = FxTable::new([(tiny, 1_500_000)]);
        assert_eq!(table.convert(Micros(20), Currency::USD, tiny, Rounding::Down), Some(Micros(13_333_333)));
    }

    #[test]
    fn conversion_rounds_as_asked() {
        let eur = Currency::parse("eur").unwrap();
        let table = FxTable::new([(eur, 1_100_000_000_000)]);
        assert_eq!(table.convert(Micros(10), eur, Currency::USD, Rounding::Down), Some(Micros(11)));
        assert_eq!(table.convert(Micros(10), Currency::USD, eur, Rounding::Down), Some(Micros(9)));
        assert_eq!(table.convert(Micros(10), Currency::USD, eur, Rounding::Up), Some(Micros(10)));
        assert_eq!(table.convert(Micros(10), Currency::USD, Currency::parse("JPY").unwrap(), Rounding::Up), None);
    }
}
