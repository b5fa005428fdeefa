//! Escaping for HTML and XML, and the only place that lets a URL into markup.

use super::Misfit;
use std::borrow::Cow;
use std::fmt::Write;

/// A URL as it may stand in markup: http or https with a host; blanks, controls, quotes and angle brackets are
/// percent-encoded. It still has to be escaped for where it is put.
///
/// # Errors
/// [`Misfit::Url`] for any other scheme (`javascript:`, `data:`, ...) and for an address without a host.
pub fn web_url(url: &str) -> Result<Cow<'_, str>, Misfit> {
    let rest = strip_scheme(url, "https://").or_else(|| strip_scheme(url, "http://")).ok_or(Misfit::Url)?;
    let host = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if host.is_empty() || host.contains(|c: char| is_unsafe(c) || c == '@') {
        return Err(Misfit::Url);
    }
    if !url.contains(is_unsafe) {
        return Ok(Cow::Borrowed(url));
    }
    let mut out = String::with_capacity(url.len() + 16);
    for c in url.chars() {
        if is_unsafe(c) {
            let mut bytes = [0u8; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    Ok(Cow::Owned(out))
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | '\\' | '^' | '|')
}

fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let (head, rest) = url.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// True for an https address.
pub(super) fn is_https(url: &str) -> bool {
    strip_scheme(url, "https://").is_some()
}

/// Text for an element or a quoted attribute, of HTML or XML alike; characters that XML 1.0 forbids and controls are
/// dropped.
#[must_use]
pub fn markup_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars().filter(|&c| !is_dropped(c)) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

fn is_dropped(c: char) -> bool {
    matches!(c, '\u{FFFE}' | '\u{FFFF}') || (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

/// At most `chars` characters: cut at a word's end if that keeps more than half, and marked with an ellipsis.
pub(super) fn shortened(text: &str, chars: usize) -> Cow<'_, str> {
    if text.chars().count() <= chars {
        return Cow::Borrowed(text);
    }
    let Some(kept) = chars.checked_sub(1) else { return Cow::Borrowed("") };
    let end = text.char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
    let (head, tail) = text.split_at(end);
    if tail.starts_with(char::is_whitespace) {
        return Cow::Owned(format!("{}…", head.trim_end()));
    }
    let word = head.rfind(char::is_whitespace).map(|at| head[..at].trim_end()).filter(|w| w.len() * 2 > head.len());
    Cow::Owned(format!("{}…", word.unwrap_or(head)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_web_addresses_pass() {
        for url in [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "data:text/html,x",
            "//a.example/x",
            "ftp://a",
            "",
            "http://",
            "https:///path",
            " https://a.example",
            "java\nscript:alert(1)",
            "https://a.example@evil.example/",
            "https://a b/",
            "http",
        ] {
            assert_eq!(web_url(url), Err(Misfit::Url), "{url:?}");
        }
        assert_eq!(web_url("HTTPS://a.example/x?y=1&z=2").unwrap(), "HTTPS://a.example/x?y=1&z=2");
        assert_eq!(web_url("https://a.example/\"><script>\n").unwrap(), "https://a.example/%22%3E%3Cscript%3E%0A");
    }

    #[test]
    fn texts_are_shortened_at_words() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("a fine long title", 12), "a fine long…");
        assert_eq!(shortened("unbreakable", 5), "unbr…");
        assert_eq!(shortened("äöüäöü", 3), "äö…");
        assert_eq!(shortened("any", 0), "");
        assert_eq!(shortened("any", 1), "…");
    }

    proptest! {
        #[test]
        fn nothing_active_survives(text in "\\PC{0,40}", chars in 0usize..30) {
            prop_assert!(!markup_text(&text).contains(['<', '>', '"', '\'']));
            prop_assert!(shortened(&text, chars).chars().count() <= chars);
        }
    }
}
