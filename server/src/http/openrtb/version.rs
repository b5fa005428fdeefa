//! The `x-openrtb-version` header.

use super::BadRequest;

/// Checks the `x-openrtb-version` header: any 2.x is answered, an absent header too (the specification only
/// recommends it).
///
/// # Errors
/// [`BadRequest`] on `x-openrtb-version` for another major version or a text that is no version.
pub fn check_version(header: Option<&str>) -> Result<(), BadRequest> {
    let Some(header) = header else { return Ok(()) };
    let fail = |fault: &str| Err(BadRequest { field: "x-openrtb-version".into(), fault: fault.into() });
    let version = header.trim();
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let number = |text: &str| !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    // 2.6 has dated revisions, written as in 2.6-202211.
    let minor = minor.split_once('-').map_or(minor, |(minor, _)| minor);
    if !number(major) || !minor.split('.').all(number) {
        return fail("is no version; must be MAJOR.MINOR, as in 2.6");
    }
    match major {
        "2" => Ok(()),
        _ => fail("names a version that is not spoken here; send OpenRTB 2.5 or 2.6"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_point_anything_is_spoken() {
        for header in [None, Some("2.0"), Some("2.5"), Some(" 2.6 "), Some("2"), Some("2.6-202211"), Some("2.5.1")] {
            assert_eq!(check_version(header), Ok(()), "{header:?}");
        }
        for header in ["", "1.0", "3.0", "22.5", "two", "2.", ".5", "2.x", "-2.5", "2.5;q=1", "02.5"] {
            let error = check_version(Some(header)).unwrap_err();
            assert_eq!(error.field, "x-openrtb-version", "{header}");
        }
    }
}
