//! Who calls the admin port: bearer tokens and what their roles may do.

use crate::config;
use crate::http::respond::Fault;
use crate::ids::{ID_BYTES_MAX, Id};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// Tokens in one file at most.
const TOKENS_MAX: usize = 10_000;
/// Largest token file read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Scheme of the authorization.
const BEARER: &[u8] = b"Bearer";

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads everything but the audit log, changes nothing.
    Read,
    /// Reads and changes the plans, creatives and figures of one advertiser.
    Advertiser(Id),
    /// Everything.
    Operator,
    /// Writes items, one at a time or in bulk; reads items.
    Ingest,
}

impl Role {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "read" => Self::Read,
            "operator" => Self::Operator,
            "ingest" => Self::Ingest,
            _ => {
                let id = text.strip_prefix("advertiser:")?;
                if !(1..=ID_BYTES_MAX).contains(&id.len()) {
                    return None;
                }
                Self::Advertiser(Id::from(id))
            }
        })
    }

    /// The role in a word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Advertiser(_) => "advertiser",
            Self::Operator => "operator",
            Self::Ingest => "ingest",
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the token, for the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Caller {
    /// The advertiser whose plans are the only ones there are for this caller.
    #[must_use]
    pub fn owner(&self) -> Option<&Id> {
        match &self.role {
            Role::Advertiser(id) => Some(id),
            _ => None,
        }
    }
}

/// A caller as `/v1/me` shows it.
#[derive(Serialize)]
pub(super) struct Me<'a> {
    name: &'a str,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advertiser: Option<&'a Id>,
}

impl<'a> From<&'a Caller> for Me<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self { name: &caller.name, role: caller.role.name(), advertiser: caller.owner() }
    }
}

/// Why tokens cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The file is not there, too large, or no text.
    #[error("admin.token_file {path}: {fault}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        fault: String,
    },
    /// A line is not `name role sha256`.
    #[error("admin.token_file {path}, line {line}: {fault}")]
    Line {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong and what would be right.
        fault: String,
    },
}

/// The tokens that are accepted. Only their SHA-256 is held.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<([u8; 32], Caller)>);

impl Tokens {
    /// The token of `admin.token` (an operator) and those of `admin.token_file`.
    ///
    /// # Errors
    /// [`TokenError`] naming the line at fault.
    pub fn load(admin: &config::Admin) -> Result<Self, TokenError> {
        let mut tokens = Self::of_settings(admin);
        if admin.token_file.is_empty() {
            return Ok(tokens);
        }
        let path = Path::new(&admin.token_file);
        let file = |fault: String| TokenError::File { path: path.display().to_string(), fault };
        let size = std::fs::metadata(path).map_err(|error| file(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(file(format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| file(error.to_string()))?;
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |fault: &str| TokenError::Line {
                path: path.display().to_string(),
                line: at + 1,
                fault: fault.to_owned(),
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, role, hash] = words[..] else {
                return Err(fault("must be `name role sha256-of-the-token`"));
            };
            let role =
                Role::parse(role).ok_or_else(|| fault("the role must be read, advertiser:<id>, operator or ingest"))?;
            let hash = digest(hash)
                .ok_or_else(|| fault("the hash must be 64 hexadecimal digits (printf %s TOKEN | sha256sum)"))?;
            if tokens.0.iter().any(|(known, caller)| *known == hash || caller.name == name) {
                return Err(fault("this name or this token stands there twice"));
            }
            tokens.0.push((hash, Caller { name: name.to_owned(), role }));
            if tokens.0.len() > TOKENS_MAX {
                return Err(fault("there are too many tokens"));
            }
        }
        Ok(tokens)
    }

    /// The token of `admin.token` alone.
    #[must_use]
    pub fn of_settings(admin: &config::Admin) -> Self {
        let mut tokens = Self::default();
        if !admin.token.is_empty() {
            let hash = Sha256::digest(admin.token.reveal().as_bytes()).into();
            tokens.0.push((hash, Caller { name: "admin.token".to_owned(), role: Role::Operator }));
        }
        tokens
    }

    /// Who sends `authorization: Bearer <token>`. Without any token configured everyone is an operator: the port is on
    /// loopback then, unless somebody decided otherwise.
    ///
    /// # Errors
    /// 401 for no token, or one that is not known.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Fault> {
        if self.0.is_empty() {
            return Ok(Caller { name: "anyone".to_owned(), role: Role::Operator });
        }
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let given: [u8; 32] = Sha256::digest(bearer(given).unwrap_or_default()).into();
        // Every digest is compared, all of one length: the time says nothing about which one matched.
        let mut found = u64::MAX;
        for (at, (hash, _)) in (0u64..).zip(&self.0) {
            let same: Choice = hash.ct_eq(&given);
            found.conditional_assign(&at, same);
        }
        let caller = usize::try_from(found).ok().and_then(|at| self.0.get(at)).map(|(_, caller)| caller.clone());
        caller
            .ok_or_else(|| Fault::new(StatusCode::UNAUTHORIZED, "unauthorized", "send `authorization: Bearer <token>`"))
    }
}

/// The token of an `authorization` header. The scheme may be written in any case (RFC 9110, section 11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(BEARER.len())?;
    let (space, token) = token.split_first()?;
    (scheme.eq_ignore_ascii_case(BEARER) && *space == b' ').then(|| token.trim_ascii_start())
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut out = [0; 32];
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(token).unwrap());
        headers
    }

    #[test]
    fn a_file_of_tokens_is_read_and_faults_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let hash = |token: &str| Sha256::digest(token).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let admin =
            config::Admin { token_file: path.display().to_string(), token: "root".into(), ..Default::default() };
        std::fs::write(&path, format!("# who\nboard read {}\n\nacme advertiser:acme {}\n", hash("b"), hash("a")))
            .unwrap();
        let tokens = Tokens::load(&admin).unwrap();
        assert_eq!(tokens.caller(&with("Bearer a")).unwrap().role, Role::Advertiser(Id::from("acme")));
        assert_eq!(tokens.caller(&with("Bearer b")).unwrap().name, "board");
        assert_eq!(tokens.caller(&with("Bearer root")).unwrap().role, Role::Operator);
        for any_case in ["bearer b", "BEARER b", "bEaReR  b"] {
            assert_eq!(tokens.caller(&with(any_case)).unwrap().name, "board", "{any_case}");
        }
        for wrong in ["Bearer c", "a", "Bearer ", "Bearer", "Bearera", "bearer-a", "Basic a", "Bearer B"] {
            assert_eq!(tokens.caller(&with(wrong)).unwrap_err().status, 401, "{wrong}");
        }
        assert!(tokens.caller(&HeaderMap::new()).is_err());
        for bad in ["x read", "x reader 00", &format!("x advertiser: {}", hash("z")), "x read 12zz"] {
            std::fs::write(&path, format!("\n{bad}\n")).unwrap();
            let error = Tokens::load(&admin).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
        std::fs::write(&path, format!("x read {}\ny read {}\n", hash("same"), hash("same"))).unwrap();
        assert!(Tokens::load(&admin).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(Tokens::load(&admin).unwrap_err().to_string().contains("admin.token_file"));
        let open = Tokens::default().caller(&HeaderMap::new()).unwrap();
        assert_eq!(open.role, Role::Operator, "without any token, as before");
    }
}
