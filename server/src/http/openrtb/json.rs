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

/// Every field name the server reads, in any object of a request.
fn known(key: &str) -> Option<&'static str> {
    macro_rules! keys {
        ($($name:literal)*) => { match key { $($name => Some($name),)* _ => None } };
    }
    keys!(
        "id" "imp" "at" "test" "tmax" "cur" "wseat" "bseat" "bcat" "acat" "cattax" "badv" "bapp" "wlang" "wlangb"
        "site" "app" "device" "user" "regs" "ext" "domain" "bundle" "publisher" "name"
        "banner" "video" "audio" "native" "pmp" "bidfloor" "bidfloorcur" "secure" "tagid"
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
    fn deep_nesting_never_overflows() {
        let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert!(Json::parse(nested("[", "]").as_bytes()).is_err());
        assert!(Json::parse(nested(r#"{"ext":"#, "}").as_bytes()).is_err());
        // Unknown fields are skipped without recursion.
        let skipped = format!(r#"{{"id":"r","unknown":{}}}"#, nested("[", "]"));
        assert!(matches!(Json::parse(skipped.as_bytes()), Ok(Json::Object(fields)) if fields.len() == 1));
    }
}
