//! Tensors of a file to lists and back, one tensor in memory at a time besides the lists.

use super::{About, Dataset, DatasetError, Events, Impressions, Items, KEY, Next, Truth, check};
use safetensors::tensor::{Dtype, Metadata, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Most bytes of a header: some twenty tensors and a few figures.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Bytes read together.
const CHUNK_BYTES: usize = 1 << 20;

/// A number of a tensor.
trait Number: Copy {
    const DTYPE: Dtype;
    const BYTES: usize;
    /// From `BYTES` bytes, little-endian.
    fn from_bytes(bytes: &[u8]) -> Self;
    /// Appends `BYTES` bytes, little-endian.
    fn put(self, bytes: &mut Vec<u8>);
}

macro_rules! number {
    ($type:ty, $dtype:expr) => {
        impl Number for $type {
            const DTYPE: Dtype = $dtype;
            const BYTES: usize = size_of::<$type>();
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    };
}

number!(i64, Dtype::I64);
number!(i32, Dtype::I32);
number!(f32, Dtype::F32);
number!(u8, Dtype::U8);

/// Reads and checks a file.
///
/// # Errors
/// [`DatasetError`], which names the tensor at fault.
pub fn read(path: &Path) -> Result<Dataset, DatasetError> {
    let io = |fault| DatasetError::Io { path: path.display().to_string(), fault };
    let set = Source::open(path)?.dataset().map_err(|fault| match fault {
        Fault::Io(fault) => io(fault),
        Fault::Set(fault) => fault,
    })?;
    check::check(&set)?;
    Ok(set)
}

/// Checks and writes a file: under another name first, so that a file under `path` is always whole.
///
/// # Errors
/// [`DatasetError`], which names the list at fault; nothing is written then.
pub fn write(path: &Path, set: &Dataset) -> Result<(), DatasetError> {
    check::check(set)?;
    let io = |fault| DatasetError::Io { path: path.display().to_string(), fault };
    let about = serde_json::to_string(&set.about).map_err(|fault| io(fault.into()))?;
    let draft = path.with_extension("safetensors.tmp");
    safetensors::serialize_to_file(columns(set), Some(HashMap::from([(KEY.to_owned(), about)])), &draft)
        .map_err(|fault| io(std::io::Error::other(fault)))?;
    std::fs::rename(&draft, path).map_err(io)
}

/// A list as a tensor.
struct Column<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Box<dyn Fn() -> Vec<u8> + 'a>,
    len: usize,
}

impl View for Column<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        (self.bytes)().into()
    }
    fn data_len(&self) -> usize {
        self.len
    }
}

fn column<T: Number>(list: &[T], shape: Vec<usize>) -> Column<'_> {
    let bytes = move || {
        let mut bytes = Vec::with_capacity(list.len() * T::BYTES);
        list.iter().for_each(|number| number.put(&mut bytes));
        bytes
    };
    Column { dtype: T::DTYPE, shape, bytes: Box::new(bytes), len: list.len() * T::BYTES }
}

fn columns(set: &Dataset) -> Vec<(&'static str, Column<'_>)> {
    fn flat<T: Number>(list: &[T]) -> Column<'_> {
        column(list, vec![list.len()])
    }
    let Dataset { items, users, events, next, impressions, .. } = set;
    let mut all = vec![
        ("items.ids", flat(&items.ids)),
        ("items.vectors", column(&items.vectors, vec![items.ids.len(), items.dimension])),
        ("items.prices", flat(&items.prices)),
        ("users.ids", flat(users)),
        ("events.offsets", flat(&events.offsets)),
        ("events.items", flat(&events.items)),
        ("events.actions", flat(&events.actions)),
        ("events.times", flat(&events.times)),
    ];
    if let Some(next) = next {
        all.extend([("next.items", flat(&next.items)), ("next.times", flat(&next.times))]);
    }
    if let Some(shown) = impressions {
        all.extend([
            ("impressions.offsets", flat(&shown.offsets)),
            ("impressions.items", flat(&shown.items)),
            ("impressions.times", flat(&shown.times)),
            ("impressions.click", flat(&shown.click)),
            ("impressions.conversion", flat(&shown.conversion)),
            ("impressions.value", flat(&shown.value)),
        ]);
        if let Some(truth) = &shown.truth {
            all.extend([
                ("impressions.p_click", flat(&truth.click)),
                ("impressions.p_conversion", flat(&truth.conversion)),
            ]);
        }
    }
    all
}

enum Fault {
    Io(std::io::Error),
    Set(DatasetError),
}

impl From<DatasetError> for Fault {
    fn from(fault: DatasetError) -> Self {
        Self::Set(fault)
    }
}

impl From<std::io::Error> for Fault {
    fn from(fault: std::io::Error) -> Self {
        Self::Io(fault)
    }
}

/// An open file with its header read.
struct Source {
    file: BufReader<File>,
    /// Where the tensors begin.
    begin: u64,
    header: Metadata,
}

impl Source {
    fn open(path: &Path) -> Result<Self, DatasetError> {
        let io = |fault| DatasetError::Io { path: path.display().to_string(), fault };
        let wrong = |fault: String| DatasetError::Header(format!("{}: {fault}", path.display()));
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|_| wrong("is shorter than a header".to_owned()))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length + 8 > size {
            return Err(wrong(format!("claims a header of {length} bytes: it is no data set")));
        }
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact(&mut text).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|fault| wrong(format!("header: {fault}")))?;
        let begin = length + 8;
        if Some(size) != begin.checked_add(header.data_len() as u64) {
            return Err(wrong(format!("is {size} bytes long, its header speaks of {}", header.data_len())));
        }
        Ok(Self { file: BufReader::with_capacity(CHUNK_BYTES, file), begin, header })
    }

    fn dataset(&mut self) -> Result<Dataset, Fault> {
        let about = self.header.metadata().as_ref().and_then(|all| all.get(KEY));
        let about = about.ok_or_else(|| DatasetError::Header(format!("the metadata has no key `{KEY}`")))?;
        let about: About = serde_json::from_str(about)
            .map_err(|fault| DatasetError::Header(format!("metadata key `{KEY}`: {fault}")))?;
        let (vectors, dimension) = self.matrix("items.vectors")?;
        let items = Items { ids: self.list("items.ids")?, dimension, vectors, prices: self.list("items.prices")? };
        let events = Events {
            offsets: self.list("events.offsets")?,
            items: self.list("events.items")?,
            actions: self.list("events.actions")?,
            times: self.list("events.times")?,
        };
        let next = match self.any(&["next.items", "next.times"]) {
            true => Some(Next { items: self.list("next.items")?, times: self.list("next.times")? }),
            false => None,
        };
        let impressions =
            if self.any(&["impressions.offsets", "impressions.items"]) { Some(self.impressions()?) } else { None };
        Ok(Dataset { about, items, users: self.list("users.ids")?, events, next, impressions })
    }

    fn impressions(&mut self) -> Result<Impressions, Fault> {
        let truth = match self.any(&["impressions.p_click", "impressions.p_conversion"]) {
            true => Some(Truth {
                click: self.list("impressions.p_click")?,
                conversion: self.list("impressions.p_conversion")?,
            }),
            false => None,
        };
        Ok(Impressions {
            offsets: self.list("impressions.offsets")?,
            items: self.list("impressions.items")?,
            times: self.list("impressions.times")?,
            click: self.list("impressions.click")?,
            conversion: self.list("impressions.conversion")?,
            value: self.list("impressions.value")?,
            truth,
        })
    }

    fn any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.header.info(name).is_some())
    }

    /// The numbers of a tensor of one dimension.
    fn list<T: Number>(&mut self, name: &'static str) -> Result<Vec<T>, Fault> {
        Ok(self.tensor(name, 1)?.0)
    }

    /// The numbers of a tensor of two dimensions, and its columns.
    fn matrix<T: Number>(&mut self, name: &'static str) -> Result<(Vec<T>, usize), Fault> {
        self.tensor(name, 2)
    }

    fn tensor<T: Number>(&mut self, name: &'static str, dimensions: usize) -> Result<(Vec<T>, usize), Fault> {
        let wrong = |fault: String| DatasetError::Tensor { name, fault };
        let info = self.header.info(name).ok_or_else(|| wrong("is missing".to_owned()))?;
        if info.dtype != T::DTYPE {
            return Err(wrong(format!("is of type {:?}, must be {:?}", info.dtype, T::DTYPE)).into());
        }
        if info.shape.len() != dimensions {
            return Err(wrong(format!("has shape {:?}, must have {dimensions} dimension(s)", info.shape)).into());
        }
        let count = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let (from, to) = info.data_offsets;
        let bytes = to.checked_sub(from).filter(|_| to <= self.header.data_len());
        let (Some(count), Some(bytes)) = (count, bytes) else {
            return Err(wrong(format!("lies at {from}..{to}, outside the file")).into());
        };
        if count.checked_mul(T::BYTES) != Some(bytes) {
            return Err(wrong(format!("shape {:?} does not fit {bytes} bytes", info.shape)).into());
        }
        let columns = info.shape.last().copied().unwrap_or(0);
        self.file.seek(SeekFrom::Start(self.begin + from as u64))?;
        // The file is as long as its header says, so the list is no longer than the file.
        let mut list = Vec::with_capacity(count);
        let mut chunk = vec![0; CHUNK_BYTES.min(bytes)];
        let mut left = bytes;
        while left > 0 {
            let part = left.min(CHUNK_BYTES);
            self.file.read_exact(&mut chunk[..part])?;
            list.extend(chunk[..part].chunks_exact(T::BYTES).map(T::from_bytes));
            left -= part;
        }
        Ok((list, columns))
    }
}
