//! JSON bodies: parsed whole, with the path of the field at fault.

use super::respond::Fault;
use hyper::StatusCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A `T` out of a JSON object. Left to itself, serde would take its fields from an array too, in the order in which they are declared.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Parses a body: one JSON object.
///
/// # Errors
/// 400 that names the field: what was found, what is expected, and where. What is not JSON has no fields: `bad_json`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let bad = |error: &serde_json::Error| {
        Fault::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is not one JSON object: {error}"))
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut deserializer);
    let Object(parsed) = parsed.map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            return bad(&error);
        }
        let field = if path == "." { "body".to_owned() } else { path };
        Fault::invalid(field, error.to_string())
    })?;
    deserializer.end().map_err(|error| bad(&error))?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its type matters")]
        k: u8,
    }

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[expect(dead_code, reason = "only its type matters")]
        list: Vec<Object<Inner>>,
    }

    #[test]
    fn the_field_is_named() {
        let field = |body: &str| parse::<Outer>(body.as_bytes()).unwrap_err().field;
        assert!(parse::<Outer>(br#"{"list": [{"k": 1}]}"#).is_ok());
        assert_eq!(field(r#"{"list": [{"k": 1}, {"k": "x"}]}"#).as_deref(), Some("list[1].k"));
        assert_eq!(field(r#"{"list": [{"k": 1}, [1]]}"#).as_deref(), Some("list[1]"));
        for body in ["[]", "[[{}]]", "7", "null", "{}"] {
            assert_eq!(field(body).as_deref(), Some("body"), "{body}");
        }
        let fault = parse::<Inner>(br#"{"k": 1, "zz": 2}"#).unwrap_err();
        assert!(fault.message.contains("zz"), "{}", fault.message);
    }

    #[test]
    fn what_is_not_json_has_no_field() {
        for body in ["", "{", "{k", r#"{"k": 1} x"#, r#"{"k": 1"#, r#"{"k": tru}"#, r#"{"k": 1,}"#, r#"{"a\x": 1}"#] {
            let fault = parse::<Inner>(body.as_bytes()).unwrap_err();
            assert_eq!((fault.status.as_u16(), fault.code, fault.field), (400, "bad_json", None), "{body}");
        }
    }
}
