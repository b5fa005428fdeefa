//! What a notice signs, the keys it is signed with, and the check.

use super::macros::{LossReason, clearing_price, several, suffix, told_price};
use super::query::{QUERY_BYTES_MAX, Query, push};
use super::{Notice, NoticeError, NoticeKind};
use crate::money::{Currency, Micros};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;

/// Shortest secret accepted, in bytes.
const SECRET_BYTES_MIN: usize = 16;
/// Binds signatures to this layout of the fields.
const DOMAIN: &[u8] = b"longbow notice 2";

/// What was true when the bid was made: the signed part of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Auction (`BidRequest.id`).
    pub auction: Cow<'a, str>,
    /// Our bid id: the key of the hold.
    pub bid: Cow<'a, str>,
    /// Plan that pays.
    pub plan: Cow<'a, str>,
    /// Item advertised.
    pub item: Cow<'a, str>,
    /// Creative shown.
    pub creative: Cow<'a, str>,
    /// Hash of the user, 0 for nobody: whose history a click or an impression is added to.
    pub user: u128,
    /// The bid per impression, micros of `currency`: no clearing price may be above it.
    pub cap: Micros,
    /// Currency of the bid.
    pub currency: Currency,
    /// What was held for `cap`, micros of the plan's currency: the rate at which a clearing price is charged, whatever rates are
    /// known when the notice comes.
    pub hold: Micros,
    /// When the bid was made, Unix seconds.
    pub time_s: i64,
    /// The request was a test: nothing was held and nothing may be charged or counted.
    pub test: bool,
}

impl Claim<'_> {
    /// What a clearing price of at most `cap`, micros of `currency`, costs the plan: micros of its currency, at the rate of the
    /// bid, rounded up, so at most `hold`.
    #[must_use]
    pub fn charge(&self, price: Micros) -> Micros {
        if price >= self.cap { self.hold } else { self.hold.share(price, self.cap) }
    }

    /// The signed bytes: every field with its length before it, so that no two claims share them.
    fn feed(&self, kind: NoticeKind, key_id: &str, mac: &mut Hmac<Sha256>) {
        let mut field = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_le_bytes());
            mac.update(bytes);
        };
        field(DOMAIN);
        field(kind.label().as_bytes());
        field(key_id.as_bytes());
        for text in [&self.auction, &self.bid, &self.plan, &self.item, &self.creative] {
            field(text.as_bytes());
        }
        field(&self.user.to_le_bytes());
        field(&self.cap.0.to_le_bytes());
        field(self.currency.as_str().as_bytes());
        field(&self.hold.0.to_le_bytes());
        field(&self.time_s.to_le_bytes());
        field(&[u8::from(self.test)]);
    }
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The id is empty, too long, or not alphanumeric.
    #[error("a notice key id must be 1 to 16 letters and digits")]
    Id,
    /// The secret is too short.
    #[error("a notice key secret must have at least {SECRET_BYTES_MIN} bytes")]
    Secret,
    /// Both keys have the same id.
    #[error("the two notice keys must have different ids")]
    SameId,
}

/// A named secret.
#[derive(Clone)]
pub struct Key {
    id: String,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    /// A key. The id is public, the secret is not.
    ///
    /// # Errors
    /// [`KeyError`] for an id that cannot stand in a URL or a secret that could be guessed.
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, KeyError> {
        if !(1..=16).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(KeyError::Id);
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::Secret);
        }
        let mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| KeyError::Secret)?;
        Ok(Self { id: id.to_owned(), mac })
    }
}

/// How old a notice may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Win, billing, loss and impression, in seconds.
    pub auction_s: i64,
    /// Click, in seconds: people take their time.
    pub click_s: i64,
    /// How far ahead the signing machine's clock may be, in seconds.
    pub skew_s: i64,
}

impl Default for Windows {
    fn default() -> Self {
        Self { auction_s: 60 * 60, click_s: 24 * 60 * 60, skew_s: 60 }
    }
}

/// Signs notices under one key and accepts two, so that keys can be changed without losing notices that are under way.
#[derive(Clone, Debug)]
pub struct NoticeSigner {
    active: Key,
    previous: Option<Key>,
    windows: Windows,
}

impl NoticeSigner {
    /// Signs with `active`; accepts `previous` as well.
    ///
    /// # Errors
    /// [`KeyError::SameId`] if both have one id.
    pub fn new(active: Key, previous: Option<Key>, windows: Windows) -> Result<Self, KeyError> {
        if previous.as_ref().is_some_and(|previous| previous.id == active.id) {
            return Err(KeyError::SameId);
        }
        Ok(Self { active, previous, windows })
    }

    /// The notice URL under `base` (scheme and host, no slash at the end). For win, billing and loss it ends in the
    /// macros that the exchange substitutes.
    #[must_use]
    pub fn url(&self, base: &str, kind: NoticeKind, claim: &Claim<'_>) -> String {
        let mut mac = self.active.mac.clone();
        claim.feed(kind, &self.active.id, &mut mac);
        let mut out = String::with_capacity(base.len() + 640);
        out.push_str(base);
        out.push_str("/notice/");
        out.push_str(kind.label());
        out.push_str("?k=");
        out.push_str(&self.active.id);
        push(&mut out, "a", &claim.auction);
        push(&mut out, "b", &claim.bid);
        push(&mut out, "p", &claim.plan);
        push(&mut out, "i", &claim.item);
        push(&mut out, "c", &claim.creative);
        push(&mut out, "u", &format!("{:x}", claim.user));
        push(&mut out, "m", &claim.cap.0.to_string());
        push(&mut out, "y", claim.currency.as_str());
        push(&mut out, "h", &claim.hold.0.to_string());
        push(&mut out, "t", &claim.time_s.to_string());
        if claim.test {
            push(&mut out, "x", "1");
        }
        push(&mut out, "s", &URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        out.push_str(suffix(kind));
        out
    }

    /// Reads and checks the query of a notice that arrived at `now_s` (Unix seconds).
    ///
    /// # Errors
    /// [`NoticeError`]: nothing may be charged, except that [`NoticeError::Expired`] holds a sound notice which a ledger
    /// may still have to charge and flag.
    pub fn verify(&self, kind: NoticeKind, query: &str, now_s: i64) -> Result<Notice, NoticeError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(NoticeError::Malformed { field: "query" });
        }
        let query = Query::parse(query);
        let key_id = query.get("k").ok_or(NoticeError::Malformed { field: "k" })?;
        let known = std::iter::once(&self.active).chain(&self.previous).find(|key| key.id == key_id);
        let key = known.ok_or(NoticeError::UnknownKey)?;
        let claim = read_claim(&query)?;
        let signature = query.get("s").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let signature = signature.ok_or(NoticeError::Malformed { field: "s" })?;
        let mut mac = key.mac.clone();
        claim.feed(kind, &key.id, &mut mac);
        // Compares in constant time.
        mac.verify_slice(&signature).map_err(|_| NoticeError::BadSignature)?;

        let notice = read_macros(kind, &query, claim, now_s)?;
        let window_s = if kind == NoticeKind::Click { self.windows.click_s } else { self.windows.auction_s };
        if notice.age_s < -self.windows.skew_s {
            return Err(NoticeError::FromFuture);
        }
        if notice.age_s > window_s {
            return Err(NoticeError::Expired { age_s: notice.age_s, notice: Box::new(notice) });
        }
        Ok(notice)
    }
}

fn read_claim(query: &Query<'_>) -> Result<Claim<'static>, NoticeError> {
    let get = |field| query.get(field).ok_or(NoticeError::Malformed { field });
    let text = |field| get(field).map(|value| Cow::Owned(value.to_owned()));
    // Only the canonical form of a number is read, as only that was written.
    let number = |field| {
        let text = get(field)?;
        let parsed = text.parse::<i64>().ok().filter(|value| value.to_string() == text);
        parsed.ok_or(NoticeError::Malformed { field })
    };
    let user = get("u")?;
    let user = u128::from_str_radix(user, 16).ok().filter(|value| format!("{value:x}") == user);
    Ok(Claim {
        auction: text("a")?,
        bid: text("b")?,
        plan: text("p")?,
        item: text("i")?,
        creative: text("c")?,
        user: user.ok_or(NoticeError::Malformed { field: "u" })?,
        cap: Micros(number("m")?),
        currency: Currency::parse(get("y")?).ok_or(NoticeError::Malformed { field: "y" })?,
        hold: Micros(number("h")?),
        time_s: number("t")?,
        test: match query.get("x") {
            None => false,
            Some("1") => true,
            Some(_) => return Err(NoticeError::Malformed { field: "x" }),
        },
    })
}

fn read_macros(kind: NoticeKind, query: &Query<'_>, claim: Claim<'static>, now_s: i64) -> Result<Notice, NoticeError> {
    let price = if kind.charges() {
        let foreign = query.told("cur").is_some_and(|code| Currency::parse(code.trim()) != Some(claim.currency));
        if foreign {
            return Err(NoticeError::Currency { claim: Box::new(claim) });
        }
        match clearing_price(query.get("price"), claim.cap) {
            Ok(price) => Some(price),
            Err(fault) => return Err(NoticeError::Price { fault, claim: Box::new(claim) }),
        }
    } else {
        told_price(query.told("price"))
    };
    Ok(Notice {
        kind,
        age_s: now_s.saturating_sub(claim.time_s),
        price,
        loss: query.told("loss").and_then(LossReason::parse),
        min_to_win: told_price(query.told("min")),
        several: query.told("mult").is_some_and(several),
        impression_at_ms: query.told("ts").and_then(|text| text.parse().ok()),
        claim,
    })
}
