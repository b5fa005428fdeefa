//! Reads numpy archives (`.npz`): a zip file of `.npy` arrays, stored or deflated.

use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Largest file and largest array that are read.
const BYTES_MAX: u64 = 1 << 30;

/// One array as numbers, row by row.
#[derive(Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

/// Reads every array of an archive.
pub(crate) fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Array>> {
    let size = std::fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?.len();
    ensure!(size <= BYTES_MAX, "{} is larger than 1 GiB", path.display());
    arrays(&std::fs::read(path)?).with_context(|| format!("{} is no numpy archive that can be read", path.display()))
}

fn bytes(file: &[u8], at: usize, count: usize) -> anyhow::Result<&[u8]> {
    at.checked_add(count).and_then(|end| file.get(at..end)).context("it is cut short")
}

fn number(file: &[u8], at: usize, count: usize) -> anyhow::Result<usize> {
    let value = bytes(file, at, count)?.iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
    Ok(usize::try_from(value)?)
}

/// Walks the central directory.
fn arrays(file: &[u8]) -> anyhow::Result<BTreeMap<String, Array>> {
    const END: &[u8] = b"PK\x05\x06";
    let tail = file.len().saturating_sub(66_000);
    let end = file[tail..].windows(4).rposition(|four| four == END).context("there is no zip directory")? + tail;
    let (count, mut at) = (number(file, end + 10, 2)?, number(file, end + 16, 4)?);
    let mut out = BTreeMap::new();
    for _ in 0..count {
        ensure!(bytes(file, at, 4)? == b"PK\x01\x02", "its directory is damaged");
        let (method, packed, size) = (number(file, at + 10, 2)?, number(file, at + 20, 4)?, number(file, at + 24, 4)?);
        let (name_len, extra, comment) =
            (number(file, at + 28, 2)?, number(file, at + 30, 2)?, number(file, at + 32, 2)?);
        let local = number(file, at + 42, 4)?;
        let name = String::from_utf8_lossy(bytes(file, at + 46, name_len)?).into_owned();
        at += 46 + name_len + extra + comment;
        let data = local + 30 + number(file, local + 26, 2)? + number(file, local + 28, 2)?;
        let packed = bytes(file, data, packed)?;
        ensure!(size as u64 <= BYTES_MAX, "array `{name}` is larger than 1 GiB");
        let mut unpacked = Vec::new();
        match method {
            0 => unpacked.extend_from_slice(packed),
            8 => {
                flate2::read::DeflateDecoder::new(packed).take(BYTES_MAX).read_to_end(&mut unpacked)?;
            }
            other => bail!("array `{name}` is packed by method {other}; use numpy's savez or savez_compressed"),
        }
        ensure!(unpacked.len() == size, "array `{name}` is cut short");
        let array = array(&unpacked).with_context(|| format!("array `{name}`"))?;
        out.insert(name.trim_end_matches(".npy").to_owned(), array);
    }
    Ok(out)
}

/// One `.npy` array.
fn array(file: &[u8]) -> anyhow::Result<Array> {
    ensure!(bytes(file, 0, 6)? == b"\x93NUMPY", "is not in numpy's format");
    let wide = bytes(file, 6, 1)?[0] >= 2;
    let (length, start) = if wide { (number(file, 8, 4)?, 12) } else { (number(file, 8, 2)?, 10) };
    let header = std::str::from_utf8(bytes(file, start, length)?)?;
    let field = |name: &str| {
        let (_, rest) = header.split_once(&format!("'{name}':")).context(format!("its header lacks {name}"))?;
        anyhow::Ok(rest.trim_start())
    };
    ensure!(field("fortran_order")?.starts_with("False"), "is in Fortran order");
    let kind = field("descr")?.trim_start_matches('\'').split('\'').next().unwrap_or_default().to_owned();
    let shape = field("shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
    let shape: Vec<usize> =
        shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    let count =
        shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n)).context("its shape is too large")?;
    let body = &file[start + length..];
    let data: Vec<f64> = match kind.as_str() {
        "|u1" => body.iter().map(|&byte| f64::from(byte)).collect(),
        "<f2" => chunks(body).map(|b| half(u16::from_le_bytes(b))).collect(),
        "<f4" => chunks(body).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
        "<f8" => chunks(body).map(f64::from_le_bytes).collect(),
        #[expect(clippy::cast_precision_loss, reason = "ticks and counts")]
        "<i8" => chunks(body).map(|b| i64::from_le_bytes(b) as f64).collect(),
        "<i4" => chunks(body).map(|b| f64::from(i32::from_le_bytes(b))).collect(),
        other => bail!("has elements of kind {other}; u1, f2, f4, f8, i4 and i8 are read"),
    };
    ensure!(data.len() == count, "holds {} numbers, its shape says {count}", data.len());
    Ok(Array { shape, data })
}

fn chunks<const N: usize>(body: &[u8]) -> impl Iterator<Item = [u8; N]> {
    body.as_chunks::<N>().0.iter().copied()
}

/// A half-precision number.
fn half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stored (method 0) archive of one array, byte by byte as the formats say.
    fn archive(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut npy = b"\x93NUMPY\x01\x00".to_vec();
        npy.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        npy.extend(header.as_bytes());
        npy.extend(body);
        let size = u32::try_from(npy.len()).unwrap().to_le_bytes();
        let mut zip = b"PK\x03\x04".to_vec();
        zip.extend([0; 22]);
        zip.extend(5_u16.to_le_bytes());
        zip.extend(0_u16.to_le_bytes());
        zip.extend(b"a.npy");
        zip.extend(&npy);
        let directory = u32::try_from(zip.len()).unwrap();
        zip.extend(b"PK\x01\x02");
        zip.extend([0; 16]);
        zip.extend(size);
        zip.extend(size);
        zip.extend(5_u16.to_le_bytes());
        zip.extend([0; 16]);
        zip.extend(b"a.npy");
        zip.extend(b"PK\x05\x06");
        zip.extend([0, 0, 0, 0, 1, 0, 1, 0]);
        zip.extend([0; 4]);
        zip.extend(directory.to_le_bytes());
        zip.extend([0; 2]);
        zip
    }

    #[test]
    fn reads_what_the_formats_say_and_names_what_they_do_not() {
        let zip = archive("<f2", "(2, 2)", &[0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0xff, 0x7b]);
        let arrays = arrays(&zip).unwrap();
        assert_eq!(arrays["a"], Array { shape: vec![2, 2], data: vec![1.0, -2.0, 2f64.powi(-24), 65_504.0] });
        let zip = archive("<i8", "(1,)", &(-7_i64).to_le_bytes());
        assert_eq!(super::arrays(&zip).unwrap()["a"].data, [-7.0]);
        assert!(super::arrays(&archive("<f8", "(3,)", &[0; 16])).is_err());
        assert!(super::arrays(&archive("<c16", "(1,)", &[0; 16])).is_err());
        assert!(super::arrays(b"nothing").is_err());
        for cut in 0..zip.len() {
            let _ = super::arrays(&zip[..cut]);
        }
    }
}
