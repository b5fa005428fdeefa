//! Settings: precedence, and errors that name the place, the key and the fix.

use longbow::config::{ChargeOn, Config, IndexKind, Sources};
use std::path::PathBuf;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("longbow.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn strings<const N: usize>(pairs: &[[&str; N]]) -> Vec<[String; N]> {
    pairs.iter().map(|pair| pair.map(str::to_owned)).collect()
}

fn load(text: Option<&str>, env: &[[&str; 2]], flags: &[[&str; 3]]) -> Result<Config, String> {
    let held = text.map(file);
    let env = strings(env).into_iter().map(|[name, value]| (name, value)).collect();
    let flags = strings(flags).into_iter().map(|[flag, key, value]| (flag, key, value)).collect();
    let sources = Sources { file: held.as_ref().map(|(_, path)| path.clone()), env, flags };
    Config::load(&sources).map_err(|errors| match &held {
        Some((dir, _)) => errors.to_string().replace(&format!("{}/", dir.path().display()), ""),
        None => errors.to_string(),
    })
}

#[test]
fn no_source_is_the_default() {
    assert_eq!(load(None, &[], &[]).unwrap(), Config::default());
    assert_eq!(
        load(Some(""), &[["LONGBOW_PORT", "tcp://10.0.0.1:80"], ["PATH", "/bin"]], &[]).unwrap(),
        Config::default()
    );
}

#[test]
fn flags_win_over_environment_over_file() {
    let text = "[http]\nlisten = \"127.0.0.1:1\"\nconnections_max = 10\nheader_timeout_ms = 200\n[index]\nkind = \"exact\"\n\
                [currencies]\nrates = { EUR = 1.5, GBP = 2 }\n[ledger]\ncharge_on = \"billing\"\n[log]\nno_bid_sample = 1\n";
    let env = [
        ["LONGBOW_HTTP__LISTEN", "127.0.0.1:2"],
        ["LONGBOW_HTTP__CONNECTIONS_MAX", "20"],
        ["LONGBOW_CURRENCIES__RATES__EUR", "1.25"],
        ["LONGBOW_ADMIN__HOSTS", "a.example, b.example"],
        ["LONGBOW_ADMIN__TOKEN", "12345"],
    ];
    let config = load(Some(text), &env, &[["--http", "http.listen", "localhost:3"]]).unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:3");
    assert_eq!((config.http.connections_max, config.http.header_timeout_ms), (20, 200));
    assert_eq!((config.index.kind, config.ledger.charge_on), (IndexKind::Exact, ChargeOn::Billing));
    assert_eq!(config.currencies.rates["EUR"].to_string(), "1.25");
    assert_eq!(config.currencies.rates["GBP"].to_string(), "2");
    assert_eq!(config.admin.hosts, ["a.example", "b.example"]);
    assert_eq!(config.admin.token.reveal(), "12345");
    assert!(config.log.no_bid_sample > 0.99);
}

#[test]
fn faults_of_a_file_name_line_key_and_fix() {
    let table = [
        ("[http]\nlisen = \"127.0.0.1:80\"\n", "longbow.toml:2: unknown key `http.lisen`; did you mean `http.listen`?"),
        ("[htp]\nlisten = \"127.0.0.1:80\"\n", "longbow.toml:2: unknown key `htp.listen`; did you mean `http.listen`?"),
        ("[htpp]\n", "longbow.toml:1: unknown key `htpp`; did you mean `http`?"),
        (
            "\n\n[batch]\ncandidates = 100\n",
            "longbow.toml:4: unknown key `batch.candidates`; did you mean `auction.candidates`?",
        ),
        ("hold_seconds = 3\n", "longbow.toml:1: unknown key `hold_seconds`; did you mean `ledger.hold_seconds`?"),
        ("[http]\nzebra = 1\n", "longbow.toml:2: unknown key `http.zebra`"),
        ("http = 3\n", "longbow.toml:1: `http` must be a section, as in [http], found a value"),
        (
            "[http]\nconnections_max = \"many\"\n",
            "longbow.toml:2: `http.connections_max` must be a whole number from 1 to 1000000, found the text \"many\"",
        ),
        (
            "[http]\nconnections_max = 0\n",
            "longbow.toml:2: `http.connections_max` is 0, allowed is a whole number from 1 to 1000000",
        ),
        (
            "[http]\nconnections_max = 1.5\n",
            "longbow.toml:2: `http.connections_max` must be a whole number from 1 to 1000000, found the number 1.5",
        ),
        (
            "[http]\nlisten = \"8080\"\n",
            "longbow.toml:2: `http.listen` must be an address and port, as in \"127.0.0.1:8080\", found the text \"8080\"",
        ),
        ("[index]\nrecall_min = 2\n", "longbow.toml:2: `index.recall_min` is 2, allowed is a number from 0.5 to 1"),
        ("[index]\nrecall_min = nan\n", "longbow.toml:2: `index.recall_min` is NaN, allowed is a number from 0.5 to 1"),
        (
            "[index]\nkind = \"hnsw\"\n",
            "longbow.toml:2: `index.kind` is the text \"hnsw\", allowed is one of \"auto\", \"exact\", \"ivf\", \"ivfpq\"",
        ),
        (
            "[admin]\nallow_remote = \"yes\"\n",
            "longbow.toml:2: `admin.allow_remote` must be true or false, found the text \"yes\"",
        ),
        ("[admin]\ntoken = 12345\n", "longbow.toml:2: `admin.token` must be text in quotes, found integer"),
        (
            "[currencies]\nrates = { EUR = -1.0 }\n",
            "longbow.toml:2: `currencies.rates` is -1 for EUR, allowed is a table of numbers from 0.000001 to 1000000, as in { EUR = 1.08 }",
        ),
        (
            "[currencies.rates]\nEURO = 1.0\n",
            "longbow.toml:1: `currencies.rates` names `EURO`: use three letters of ISO 4217, as in EUR",
        ),
        (
            "[currencies]\nrates = { EUR = 1.1, USD = 3 }\n",
            "longbow.toml:2: `currencies.rates` names USD: rates are in it; leave it out",
        ),
        (
            "[admin]\n# comment\nlisten = \"0.0.0.0:9090\"\n",
            "longbow.toml:3: `admin.listen` can be reached by other machines; listen on 127.0.0.1 or set admin.allow_remote = true",
        ),
        ("[demo]\nlong_users = 30000\n", "longbow.toml:2: `demo.long_users` is above demo.users"),
        (
            "[notices]\npublic_url = \"ads.example\"\n",
            "longbow.toml:2: `notices.public_url` must start with http:// or https://, end without a slash, and have no query",
        ),
    ];
    for (text, message) in table {
        assert_eq!(load(Some(text), &[], &[]).unwrap_err(), message, "{text}");
    }
    let syntax = load(Some("[http]\nlisten = \n"), &[], &[]).unwrap_err();
    assert!(syntax.starts_with("longbow.toml:2: not valid TOML: "), "{syntax}");
    let missing = Sources { file: Some("/nowhere/longbow.toml".into()), ..Sources::default() };
    let missing = Config::load(&missing).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/longbow.toml: cannot be read: "), "{missing}");
}

#[test]
fn faults_of_environment_and_flags_name_them() {
    type Case<'a> = (&'a [[&'a str; 2]], &'a [[&'a str; 3]], &'a str);
    let table: [Case<'_>; 4] = [
        (
            &[["LONGBOW_HTTP__LISEN", "x"]],
            &[],
            "environment variable LONGBOW_HTTP__LISEN: unknown key `http.lisen`; did you mean `http.listen`?",
        ),
        (
            &[["LONGBOW_BATCH__QUEUE_MAX", "lots"]],
            &[],
            "environment variable LONGBOW_BATCH__QUEUE_MAX: `batch.queue_max` must be a whole number from 1 to 1000000, found the text \"lots\"",
        ),
        (
            &[],
            &[["--http", "http.listen", "nowhere"]],
            "flag --http: `http.listen` must be an address and port, as in \"127.0.0.1:8080\", found the text \"nowhere\"",
        ),
        (
            &[],
            &[["--set", "batch.qeue_max", "1"]],
            "flag --set: unknown key `batch.qeue_max`; did you mean `batch.queue_max`?",
        ),
    ];
    for (env, flags, message) in table {
        assert_eq!(load(None, env, flags).unwrap_err(), message);
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let errors = load(Some("[http]\na = 1\nconnections_max = 0\n"), &[["LONGBOW_X__Y", "1"]], &[]).unwrap_err();
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn what_is_printed_reads_back_and_hides_secrets() {
    let mut config = Config::default();
    config.currencies.rates.insert("EUR".to_owned(), 1.08);
    config.http.connections_max = 77;
    assert_eq!(load(Some(&config.to_toml()), &[], &[]).unwrap(), config);
    config.admin.token = "canary-3141".into();
    let shown = format!("{}{}{config:?}", config.to_toml(), config.to_json());
    assert!(!shown.contains("canary-3141"), "{shown}");
    assert!(config.to_toml().contains("(set, not shown)"));
}

#[test]
fn every_default_is_within_its_own_range() {
    // Each key written out on its own is accepted: defaults, types and ranges agree.
    let table = toml::Table::try_from(Config::default()).unwrap();
    let mut keys = 0;
    for key in Config::keys() {
        let value = &table[key.section][key.name];
        let text = format!("[{}]\n{} = {}\n", key.section, key.name, value);
        assert_eq!(load(Some(&text), &[], &[]).map(|_| ()), Ok(()), "{text}");
        assert!(key.doc.iter().all(|line| !line.trim().is_empty()));
        keys += 1;
    }
    assert_eq!(keys, table.values().map(|section| section.as_table().unwrap().len()).sum::<usize>());
}

#[test]
fn rates_become_exact_micros() {
    use longbow::money::{Currency, Micros, Rounding};
    let config = load(Some("[currencies]\nrates = { EUR = 1.08 }\n"), &[], &[]).unwrap();
    let eur = Currency::parse("EUR").unwrap();
    let table = config.currencies.table();
    assert_eq!(table.convert(Micros(1_000_000), eur, Currency::USD, Rounding::Down), Some(Micros(1_080_000)));
}
