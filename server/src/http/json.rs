//! JSON bodies: parsed whole, with the path of the field at fault.

use super::respond::Fault;
use serde::de::DeserializeOwned;

/// Parses a body.
///
/// # Errors
/// 400 that names the field: what was found, what is expected, and where.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        Fault::invalid(field, error.into_inner().to_string())
    })?;
    deserializer.end().map_err(|error| Fault::invalid("body", error.to_string()))?;
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

    #[test]
    fn the_field_is_named() {
        let fault = parse::<Vec<Inner>>(br#"[{"k": 1}, {"k": "x"}]"#).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("[1].k"));
        let fault = parse::<Inner>(br#"{"k": 1, "zz": 2}"#).unwrap_err();
        assert!(fault.message.contains("zz"), "{}", fault.message);
        assert_eq!(parse::<Inner>(br#"{"k": 1} x"#).unwrap_err().field.as_deref(), Some("body"));
        assert!(parse::<Inner>(b"").is_err());
    }
}
