//! iPinYou bid log lines as OpenRTB requests.
//!
//! A line has 27 tab-separated columns (two more, the later outcomes, may follow): click, weekday, hour, bid id,
//! timestamp, log type, user id, user agent, IP, region, city, exchange, domain, URL, URL id, slot id, width, height,
//! visibility, format, slot floor, creative, bid, paid, key page, advertiser, user tags. Money in it is fen (hundredths of
//! a yuan) for a thousand impressions.

use serde_json::{Map, Value, json};

/// Columns of the documented form.
const COLUMNS: usize = 27;
/// Columns with the two outcomes that some files append.
const COLUMNS_MAX: usize = 29;
/// Milliseconds that an exchange of that time waited, network included.
const TMAX_MS: u32 = 100;

/// Why a line is no bid log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineError {
    /// The number of tab-separated columns is wrong.
    Columns {
        /// How many there are.
        found: usize,
    },
    /// A column does not hold what it must.
    Column {
        /// Its number, from 1.
        number: usize,
        /// Its name.
        name: &'static str,
    },
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Columns { found } => {
                write!(f, "has {found} tab-separated columns; a bid log line has {COLUMNS} to {COLUMNS_MAX}")
            }
            Self::Column { number, name } => write!(f, "column {number} ({name}) is empty or malformed"),
        }
    }
}

impl std::error::Error for LineError {}

/// One line, by column number from 1.
struct Line<'a>(Vec<&'a str>);

impl<'a> Line<'a> {
    /// A column; `null`, `Na` and nothing count as absent.
    fn get(&self, number: usize) -> Option<&'a str> {
        self.0.get(number - 1).copied().filter(|text| !matches!(*text, "" | "null" | "Na" | "unknown"))
    }

    fn need(&self, number: usize, name: &'static str) -> Result<&'a str, LineError> {
        self.get(number).ok_or(LineError::Column { number, name })
    }

    fn number(&self, number: usize, name: &'static str) -> Result<u32, LineError> {
        self.need(number, name)?.parse().map_err(|_| LineError::Column { number, name })
    }
}

/// The OpenRTB request that the exchange would have sent for this line: what the bidder knew, nothing of the outcome.
///
/// The currency is the log's own, yuan, with US dollars as the second choice.
///
/// # Errors
/// [`LineError`] naming the column.
pub(crate) fn to_openrtb(line: &str) -> Result<Value, LineError> {
    let line = Line(line.trim_end_matches(['\r', '\n']).split('\t').collect());
    if !(COLUMNS..=COLUMNS_MAX).contains(&line.0.len()) {
        return Err(LineError::Columns { found: line.0.len() });
    }
    let id = line.need(4, "bid id")?;
    let stamp = line.need(5, "timestamp")?;
    if stamp.len() != 17 || !stamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(LineError::Column { number: 5, name: "timestamp" });
    }
    let (w, h) = (line.number(17, "width")?, line.number(18, "height")?);
    let floor_fen = line.number(21, "slot floor")?;
    let mut imp = json!({
        "id": "1",
        "banner": {"w": w, "h": h, "pos": position(line.get(19))},
        "bidfloor": f64::from(floor_fen) / 100.0,
        "bidfloorcur": "CNY",
    });
    put(&mut imp, "tagid", line.get(16));
    let mut out = json!({
        "id": id,
        "at": 2,
        "tmax": TMAX_MS,
        "cur": ["CNY", "USD"],
        "imp": [imp],
        "site": site(&line),
        "device": device(&line),
        "user": user(&line),
        "ext": {"logged_at": stamp},
    });
    put(&mut out["ext"], "exchange", line.get(12));
    Ok(out)
}

fn put(object: &mut Value, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        object[key] = json!(value);
    }
}

/// Visibility as an ad position (OpenRTB list of positions): the first screen is above the fold.
fn position(visibility: Option<&str>) -> u8 {
    match visibility {
        Some("FirstView" | "1") => 1,
        Some(text) if text.ends_with("View") || text.bytes().all(|b| b.is_ascii_digit()) => 3,
        _ => 0,
    }
}

/// Domain and URL are hashes in the log; they name a site as well as the real ones would.
fn site(line: &Line<'_>) -> Value {
    let mut site = Value::Object(Map::new());
    put(&mut site, "id", line.get(15).or(line.get(13)));
    put(&mut site, "domain", line.get(13));
    put(&mut site, "page", line.get(14));
    site
}

fn device(line: &Line<'_>) -> Value {
    let mut geo = json!({"country": "CHN", "type": 2});
    put(&mut geo, "region", line.get(10));
    put(&mut geo, "city", line.get(11));
    let mut device = json!({"geo": geo, "language": "zh"});
    put(&mut device, "ua", line.get(8));
    // The log masks the last byte of an address.
    let ip = line.get(9).map(|ip| ip.replace('*', "0"));
    put(&mut device, "ip", ip.as_deref());
    let os = line.get(8).and_then(|agent| match agent.split('_').next()? {
        "windows" => Some("Windows"),
        "mac" => Some("macOS"),
        "linux" => Some("Linux"),
        "android" => Some("Android"),
        "ios" => Some("iOS"),
        _ => None,
    });
    put(&mut device, "os", os);
    device
}

fn user(line: &Line<'_>) -> Value {
    let mut user = Value::Object(Map::new());
    put(&mut user, "id", line.get(7));
    let tags: Vec<Value> = line
        .get(27)
        .unwrap_or_default()
        .split(',')
        .filter(|tag| !tag.is_empty())
        .map(|tag| json!({"id": tag}))
        .collect();
    if !tags.is_empty() {
        user["data"] = json!([{"id": "tags", "segment": tags}]);
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    use longbow::http::openrtb::parse;
    use longbow::money::Micros;

    const LINE: &str = "0\t3\t19\tf9d669c54e98651bde0e0d90f2ecc9af\t20131023193112417\t1\tDANJVC6Xu2H\twindows_ie\t14.214.89.*\t216\t222\t3\t7ed515fe\t3b1a7e87\tnull\tSports_F_Rectangle\t300\t250\tFirstView\tNa\t50\t7323\t294\t148\tnull\t2259\t10063,10006\t0\t0";

    #[test]
    fn a_line_becomes_a_request() {
        let request = to_openrtb(LINE).unwrap();
        assert_eq!(
            request,
            json!({
                "id": "f9d669c54e98651bde0e0d90f2ecc9af", "at": 2, "tmax": 100, "cur": ["CNY", "USD"],
                "imp": [{"id": "1", "banner": {"w": 300, "h": 250, "pos": 1}, "bidfloor": 0.5, "bidfloorcur": "CNY",
                         "tagid": "Sports_F_Rectangle"}],
                "site": {"id": "7ed515fe", "domain": "7ed515fe", "page": "3b1a7e87"},
                "device": {"geo": {"country": "CHN", "type": 2, "region": "216", "city": "222"}, "language": "zh",
                           "ua": "windows_ie", "ip": "14.214.89.0", "os": "Windows"},
                "user": {"id": "DANJVC6Xu2H", "data": [{"id": "tags", "segment": [{"id": "10063"}, {"id": "10006"}]}]},
                "ext": {"logged_at": "20131023193112417", "exchange": "3"},
            })
        );
        let slot = parse(request.to_string().as_bytes()).unwrap().slots.remove(0);
        assert_eq!((slot.floor, slot.floor_currency.unwrap().as_str()), (Micros(500), "CNY"));
        let without_outcomes = LINE.trim_end_matches("\t0\t0");
        assert_eq!(to_openrtb(&format!("{without_outcomes}\r\n")).unwrap(), request);
    }

    #[test]
    fn what_is_no_line_is_named() {
        assert_eq!(to_openrtb(""), Err(LineError::Columns { found: 1 }));
        assert_eq!(to_openrtb(&format!("{LINE}\tx")), Err(LineError::Columns { found: 30 }));
        for (number, name, with) in [
            (4, "bid id", "null"),
            (5, "timestamp", "2013"),
            (17, "width", "wide"),
            (18, "height", "-1"),
            (21, "slot floor", ""),
        ] {
            let mut columns: Vec<&str> = LINE.split('\t').collect();
            columns[number - 1] = with;
            assert_eq!(to_openrtb(&columns.join("\t")), Err(LineError::Column { number, name }));
        }
    }

    #[test]
    fn every_line_of_the_real_log_becomes_a_request_with_one_banner() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/bidding/ipinyou-2259/test.log.txt");
        let Ok(text) = std::fs::read_to_string(file) else {
            println!("skipped: ../shared is absent");
            return;
        };
        let mut floors = 0;
        for (number, line) in text.lines().enumerate() {
            let value = to_openrtb(line).unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
            let request = parse(value.to_string().as_bytes()).unwrap();
            assert_eq!(request.slots[0].banner.as_ref().unwrap().sizes.len(), 1);
            assert_eq!(request.user.for_history(), value["user"]["id"].as_str());
            assert_eq!(request.tally.total(), 0);
            let fen: i64 = line.split('\t').nth(20).unwrap().parse().unwrap();
            assert_eq!(request.slots[0].floor, Micros(fen * 10), "fen CPM to micros of a yuan per impression");
            floors += i64::from(fen > 0);
        }
        assert_eq!((text.lines().count(), floors), (4_171, 2_660));
    }
}
