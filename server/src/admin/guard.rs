//! Guards the admin port against pages of other sites; who may do what is the business of [`super::tokens`].

use crate::config;
use crate::http::respond::Fault;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use std::net::IpAddr;

/// A page of another site that has its name point here (DNS rebinding) sends that name as Host: only IP literals,
/// `localhost` and the configured names pass. A page that calls across sites sends its Origin: it must be this host.
pub(super) fn same_site(headers: &HeaderMap, admin: &config::Admin) -> Result<(), Fault> {
    let forbidden = |message: String| Err(Fault::new(StatusCode::FORBIDDEN, "forbidden", message));
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    // HTTP/1.0 clients may send none; browsers always do.
    let Some(host) = host else { return Ok(()) };
    let name = host_name(host);
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if !literal && !name.eq_ignore_ascii_case("localhost") && !admin.hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
    {
        return forbidden("this Host is not known here; add it to admin.hosts".to_owned());
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("null");
    let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if site.is_some_and(|site| site.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    forbidden("requests of other sites are refused".to_owned())
}

/// The host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn hosts_and_origins() {
        let admin = config::Admin { hosts: vec!["ops.example".to_owned()], ..config::Admin::default() };
        let table = [
            (vec![("host", "127.0.0.1:9090")], true),
            (vec![("host", "localhost:9090")], true),
            (vec![("host", "[::1]:9090")], true),
            (vec![("host", "[::1]")], true),
            (vec![("host", "OPS.example")], true),
            (vec![("host", "evil.example:9090")], false),
            (vec![("host", "127.0.0.1.evil.example")], false),
            (vec![("host", "localhost:9090"), ("origin", "http://localhost:9090")], true),
            (vec![("host", "localhost:9090"), ("origin", "http://evil.example")], false),
            (vec![("host", "localhost:9090"), ("origin", "null")], false),
            (vec![("host", "localhost:9090"), ("origin", "http://localhost:8080")], false),
            (vec![], true),
        ];
        for (pairs, allowed) in table {
            assert_eq!(same_site(&headers(&pairs), &admin).is_ok(), allowed, "{pairs:?}");
        }
    }
}
