//! A borrowed JSON tree that keeps only the fields the server reads.
//!
//! Strings without escapes borrow from the body, unknown fields are skipped while scanning, and nesting is bounded by
//! the parser's own limit (128). Where an object names a field twice the last one counts, as in most parsers.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// One JSON value.
#[derive(Debug)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Anything with a fraction, an exponent, or beyond 64 bits.
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(&'static str, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Parses a whole body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The JSON name of the value's type, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// The body with `\uffff`, a code point that is no character, in the place of every lone surrogate: what is left of an emoji where
/// a sender cut a text in its middle (`"\ud83d"`). `None` if there is none. Positions stay as they are.
pub(super) fn without_lone_surrogates(body: &[u8]) -> Option<Vec<u8>> {
    let mut mended: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < body.len() {
        if body[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match (escaped(body, at), escaped(body, at + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                mended.get_or_insert_with(|| body.to_vec())[at + 2..at + 6].copy_from_slice(b"ffff");
                6
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
    }
    mended
}

/// The number of a `\uXXXX` that stands at `at`.
fn escaped(body: &[u8], at: usize) -> Option<u16> {
    let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
    // A sign is no digit.
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// Every field name the server reads, in any object of a request.
fn known(key: &str) -> Option<&'static str> {
    macro_rules! keys {
        ($($name:literal)*) => { match key { $($name => Some($name),)* _ => None } };
    }
    keys!(
        "id" "imp" "at" "test" "tmax" "cur" "wseat" "bseat" "bcat" "acat" "cattax" "badv" "wlang" "wlangb"
        "site" "app" "device" "user" "regs" "ext" "domain" "bundle" "publisher"
        "banner" "video" "audio" "native" "pmp" "bidfloor" "bidfloorcur" "secure" "tagid" "qty" "multiplier"
        "format" "w" "h" "wmin" "hmin" "wmax" "hmax" "wratio" "hratio" "mimes" "battr" "btype"
        "minduration" "maxduration" "rqddurs" "protocols" "protocol" "linearity" "poddur" "mincpmpersec" "durfloors"
        "mindur" "maxdur" "minbitrate" "maxbitrate" "sequence" "maxseq" "skipmin" "skipafter"
        "request" "ver" "assets" "required" "title" "len" "img" "data" "type" "eventtrackers" "event" "methods"
        "private_auction" "deals" "wadomain"
        "buyeruid" "eids" "source" "uids" "consent" "coppa" "gdpr" "us_privacy" "gpc" "gpp_sid" "ifa" "lmt" "dnt" "geo" "accuracy" "country"
        "region" "city" "os" "devicetype" "language" "ppi" "channel"
    )
}

struct Key(Option<&'static str>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(known(key)))
            }
        }
        d.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(JsonVisitor)
    }
}

impl<'de> DeserializeSeed<'de> for JsonVisitor {
    type Value = Json<'de>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Json<'de>, D::Error> {
        d.deserialize_any(self)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }
    #[expect(clippy::cast_precision_loss, reason = "a count beyond 63 bits is only ever refused or clamped")]
    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(JsonVisitor)? {
            list.push(value);
        }
        Ok(Json::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            match key {
                Some(key) => fields.push((key, map.next_value_seed(JsonVisitor)?)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_known_fields_and_borrows_text() {
        let Json::Object(fields) = Json::parse(br#"{"id":"a","odd":[{"id":1}],"tmax":5,"w":1e3,"id":"b"}"#).unwrap()
        else {
            panic!("an object")
        };
        let names: Vec<_> = fields.iter().map(|(key, _)| *key).collect();
        assert_eq!(names, ["id", "tmax", "w", "id"]);
        assert!(matches!(&fields[0].1, Json::Text(Cow::Borrowed("a"))));
        assert!(matches!(&fields[2].1, Json::Float(w) if *w == 1000.0));
    }

    #[test]
    fn halves_of_surrogate_pairs_are_mended_where_they_stand() {
        let cases: [(&str, Option<&str>); 8] = [
            (r#""plain \\ud83d""#, None),
            (r#""whole \ud83d\ude00""#, None),
            (r#""\u00e9\uD7FF\uE000""#, None),
            (r#""cut \ud83d""#, Some(r#""cut \uffff""#)),
            (r#""\ude00 \uD83D\uD83D\uDE00\udead""#, Some(r#""\uffff \uffff\uD83D\uDE00\uffff""#)),
            (r#""\\\ud83d""#, Some(r#""\\\uffff""#)),
            (r#""\ud83""#, None),
            ("\\", None),
        ];
        for (body, expected) in cases {
            let mended = without_lone_surrogates(body.as_bytes());
            assert_eq!(mended.as_deref(), expected.map(str::as_bytes), "{body}");
        }
    }

    #[test]
    fn deep_nesting_never_overflows() {
        let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert!(Json::parse(nested("[", "]").as_bytes()).is_err());
        assert!(Json::parse(nested(r#"{"ext":"#, "}").as_bytes()).is_err());
        // Unknown fields are skipped without recursion.
        let skipped = format!(r#"{{"id":"r","unknown":{}}}"#, nested("[", "]"));
        assert!(matches!(Json::parse(skipped.as_bytes()), Ok(Json::Object(fields)) if fields.len() == 1));
    }
}
