//! Query strings of notices: the first value of each name counts, so nothing that an exchange appends can replace what
//! was signed.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::borrow::Cow;

/// Longest query looked at, in bytes.
pub(super) const QUERY_BYTES_MAX: usize = 16_384;
/// Most parameters looked at.
const PARAMETERS_MAX: usize = 64;

/// Everything but the unreserved characters of RFC 3986.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Appends `&name=value`, encoded.
pub(super) fn push(out: &mut String, name: &str, value: &str) {
    out.push('&');
    out.push_str(name);
    out.push('=');
    out.extend(utf8_percent_encode(value, VALUE));
}

/// A parsed query.
pub(super) struct Query<'q>(Vec<(&'q str, Cow<'q, str>)>);

impl<'q> Query<'q> {
    /// Splits and decodes; parameters that are not UTF-8 are dropped.
    pub(super) fn parse(text: &'q str) -> Self {
        let pair = |part: &'q str| {
            let (name, value) = part.split_once('=')?;
            Some((name, percent_decode_str(value).decode_utf8().ok()?))
        };
        Self(text.split('&').filter_map(pair).take(PARAMETERS_MAX).collect())
    }

    /// The first value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_ref())
    }

    /// The first value, unless empty or an unsubstituted macro.
    pub(super) fn told(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty() && !value.starts_with("${"))
    }
}
