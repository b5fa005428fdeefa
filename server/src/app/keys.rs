//! Keys that sign notices: from a file, or made once and kept in the data directory.

use crate::config;
use crate::http::notices::{Key, NoticeSigner, Windows};
use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng;
use rand::rngs::SysRng;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest key file read.
const FILE_BYTES_MAX: u64 = 4_096;

/// The signer of this configuration; makes the key file if none is named and none is there, with a warning where a server has
/// `served_before`.
pub(super) fn signer(config: &config::Notices, data: &Path, served_before: bool) -> anyhow::Result<NoticeSigner> {
    let path = if config.key_file.is_empty() { data.join("notices.key") } else { PathBuf::from(&config.key_file) };
    if config.key_file.is_empty() && !path.exists() {
        make(&path).with_context(|| format!("make the notice key {}", path.display()))?;
        if served_before {
            tracing::warn!(
                path = %path.display(),
                "the notice key was missing and was made anew: wins of bids made before cannot be verified and will not be charged; \
                 restore the old key, or add it as the second line"
            );
        }
    }
    let size = std::fs::metadata(&path).with_context(|| format!("notices.key_file {}", path.display()))?.len();
    if size > FILE_BYTES_MAX {
        bail!(
            "notices.key_file {}: larger than {FILE_BYTES_MAX} bytes; it holds one or two lines `id:base64`",
            path.display()
        );
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("notices.key_file {}", path.display()))?;
    let window = i64::try_from(config.window_seconds).unwrap_or(i64::MAX);
    let windows = Windows { auction_s: window, click_s: window.max(86_400), ..Windows::default() };
    parse(&text, windows).with_context(|| format!("notices.key_file {}", path.display()))
}

fn parse(text: &str, windows: Windows) -> anyhow::Result<NoticeSigner> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // The line itself is never shown: it is a secret.
        let (id, secret) =
            line.trim().split_once(':').with_context(|| format!("line {}: must be `id:base64`", number + 1))?;
        let secret =
            STANDARD.decode(secret.trim()).with_context(|| format!("line {}: the secret is not base64", number + 1))?;
        keys.push(Key::new(id.trim(), &secret).with_context(|| format!("line {}", number + 1))?);
    }
    let mut keys = keys.into_iter();
    let Some(active) = keys.next() else { bail!("holds no key; write one line `id:base64`") };
    let previous = keys.next();
    if keys.next().is_some() {
        bail!("holds more than two keys: the first signs, the second is still accepted");
    }
    Ok(NoticeSigner::new(active, previous, windows)?)
}

/// A new key, readable by its owner only.
fn make(path: &Path) -> anyhow::Result<()> {
    let mut secret = [0u8; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "k1:{}", STANDARD.encode(secret))?;
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_two_lines_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let config = config::Notices::default();
        signer(&config, dir.path(), false).unwrap();
        let first = std::fs::read_to_string(dir.path().join("notices.key")).unwrap();
        signer(&config, dir.path(), true).unwrap();
        assert_eq!(first, std::fs::read_to_string(dir.path().join("notices.key")).unwrap());
        let secret = STANDARD.encode([7u8; 32]);
        assert!(parse(&format!("b:{secret}\na:{secret}\n"), Windows::default()).is_ok());
        for bad in [
            "",
            "nocolon",
            "a:???",
            "a:c2hvcnQ=",
            &format!("a:{secret}\na:{secret}"),
            &format!("a:{secret}\nb:{secret}\nc:{secret}"),
        ] {
            let error = parse(bad, Windows::default()).unwrap_err();
            assert!(!format!("{error:#}").contains(&secret), "a secret is never shown");
        }
    }
}
