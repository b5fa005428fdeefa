//! The admin port over a socket, on a catalogue in memory.

use crate::wire::{Client, PATIENCE, value};
use longbow::admin::{
    Admin, Balance, CatalogAdmin, CatalogError, IfMatch, Kind, Listing, Page, WriteMode, Written, merge_patch,
};
use longbow::config::Config;
use longbow::http::Settings;
use longbow::meters::{Label as _, Meters};
use longbow::money::{Currency, Micros};
use longbow::plans::{FieldError, Item};
use longbow::runtime::{Lifecycle, PortThread, serve_on_thread};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

/// Items only, validated as the real catalogue does.
#[derive(Default)]
pub(crate) struct Memory {
    items: Mutex<BTreeMap<String, Value>>,
    batches: Mutex<Vec<usize>>,
}

fn checked(record: Value) -> Result<Value, FieldError> {
    let item: Item = serde_json::from_value(record).map_err(|e| FieldError::new("record", e.to_string()))?;
    item.validate(2)?;
    serde_json::to_value(item).map_err(|e| FieldError::new("record", e.to_string()))
}

impl CatalogAdmin for Memory {
    async fn list(&self, _kind: Kind, page: Page) -> Result<Listing, CatalogError> {
        let items = self.items.lock().unwrap();
        let from = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        let found: Vec<_> = items.range::<String, _>((from, Bound::Unbounded)).take(page.limit + 1).collect();
        let next = (found.len() > page.limit).then(|| found[page.limit - 1].0.clone());
        let records = found.into_iter().take(page.limit).map(|(_, item)| item.clone()).collect();
        Ok(Listing { records, next, total: items.len() })
    }
    async fn get(&self, _kind: Kind, id: &str) -> Result<Value, CatalogError> {
        self.items.lock().unwrap().get(id).cloned().ok_or(CatalogError::NotFound)
    }
    async fn put(
        &self,
        _kind: Kind,
        id: &str,
        record: Value,
        how: (WriteMode, &IfMatch),
    ) -> Result<Written, CatalogError> {
        let (mode, if_match) = how;
        let record = checked(record)?;
        let mut items = self.items.lock().unwrap();
        if !if_match.allows(items.get(id)) {
            return Err(CatalogError::Changed);
        }
        if mode == WriteMode::Create && items.contains_key(id) {
            return Err(CatalogError::Exists);
        }
        let created = items.insert(id.to_owned(), record.clone()).is_none();
        Ok(Written { record, created })
    }
    async fn patch(&self, _kind: Kind, id: &str, patch: Value, if_match: &IfMatch) -> Result<Written, CatalogError> {
        let mut items = self.items.lock().unwrap();
        let mut record = items.get(id).cloned().ok_or(CatalogError::NotFound)?;
        if !if_match.allows(Some(&record)) {
            return Err(CatalogError::Changed);
        }
        merge_patch(&mut record, &patch);
        let record = checked(record)?;
        items.insert(id.to_owned(), record.clone());
        Ok(Written { record, created: false })
    }
    async fn delete(&self, _kind: Kind, id: &str, if_match: &IfMatch) -> Result<(), CatalogError> {
        let mut items = self.items.lock().unwrap();
        if !if_match.allows(items.get(id)) {
            return Err(CatalogError::Changed);
        }
        items.remove(id).map(|_| ()).ok_or(CatalogError::NotFound)
    }
    async fn import(&self, _kind: Kind, records: Vec<Value>) -> Result<Vec<Result<(), FieldError>>, CatalogError> {
        self.batches.lock().unwrap().push(records.len());
        let mut items = self.items.lock().unwrap();
        Ok(records
            .into_iter()
            .map(|record| {
                let record = checked(record)?;
                items.insert(record["id"].as_str().unwrap_or_default().to_owned(), record);
                Ok(())
            })
            .collect())
    }
    async fn balance(&self, plan: &str) -> Result<Balance, CatalogError> {
        if plan != "p 1" {
            return Err(CatalogError::NotFound);
        }
        Ok(Balance {
            plan: plan.to_owned(),
            currency: Currency::USD,
            granted_micros: Micros(10),
            spent_micros: Micros(3),
            held_micros: Micros(2),
            free_micros: Micros(5),
            late_micros: Micros(1),
        })
    }
    async fn balances(&self, _page: Page) -> Result<Listing<Balance>, CatalogError> {
        let records = vec![self.balance("p 1").await?];
        Ok(Listing { total: records.len(), records, next: None })
    }
}

struct Port {
    thread: Option<PortThread>,
    lifecycle: Lifecycle,
    app: Arc<Memory>,
}

impl Port {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.admin.listen.set_port(0);
        change(&mut config);
        let (lifecycle, meters, app) = (Lifecycle::new(), Arc::new(Meters::new()), Arc::new(Memory::default()));
        let settings = Settings::admin(&config);
        let handler = Admin::new(app.clone(), Arc::new(config), meters.clone(), lifecycle.clone());
        let thread = serve_on_thread("admin", settings, meters, lifecycle.clone(), handler).unwrap();
        Self { thread: Some(thread), lifecycle, app }
    }

    async fn client(&self) -> Client {
        Client::from(TcpStream::connect(self.thread.as_ref().unwrap().address).await.unwrap())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.lifecycle.stop();
        self.thread.take().unwrap().join();
    }
}

#[tokio::test]
async fn health_follows_the_lifecycle() {
    let port = Port::start(|_| {});
    let mut client = port.client().await;
    assert_eq!(client.get("/livez").await.status, 200);
    let reply = client.get("/readyz").await;
    assert_eq!((reply.status, reply.json()["reasons"][0]["message"].clone()), (503, "still starting".into()));
    port.lifecycle.serving();
    let reply = client.get("/readyz").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"ready": true, "phase": "serving", "reasons": []})));
    port.lifecycle.not_ready("ledger", "poisoned");
    let reply = client.get("/readyz").await;
    assert_eq!((reply.status, reply.json()["reasons"][0]["component"].clone()), (503, "ledger".into()));
    let metrics = client.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(value(std::str::from_utf8(&metrics.body).unwrap(), "longbow_ready").abs() < 0.5);
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.request("POST", "/livez", "", b"").await.header("allow"), Some("GET, HEAD"));
}

#[tokio::test]
async fn settings_are_shown_without_secrets() {
    let port = Port::start(|config| config.admin.token = "canary-2718".into());
    let mut client = port.client().await;
    let refused = client.get("/config").await;
    assert_eq!(refused.status, 401);
    assert_eq!(client.get("/readyz").await.status, 503, "health needs no token");
    for path in ["/config", "/config?format=toml"] {
        let reply = client.request("GET", path, "authorization: Bearer canary-2718\r\n", b"").await;
        assert_eq!(reply.status, 200);
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.contains("connections_max") && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn other_sites_are_kept_out() {
    let port = Port::start(|_| {});
    let mut client = port.client().await;
    client.send("GET /v1/items HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 403);
    let reply = client.request("DELETE", "/v1/items/a", "origin: https://evil.example\r\n", b"").await;
    assert_eq!((reply.status, reply.json()["error"]["code"].clone()), (403, "forbidden".into()));
}

#[tokio::test]
async fn records_are_created_read_changed_and_deleted() {
    let port = Port::start(|_| {});
    let mut client = port.client().await;
    let reply = client.post("/v1/items", "", br#"{"id": 7, "title": "Lamp"}"#).await;
    assert_eq!(
        (reply.status, reply.header("location"), reply.json()["id"].clone()),
        (201, Some("/v1/items/7"), "7".into())
    );
    let reply = client.post("/v1/items", "", br#"{"id": "7"}"#).await;
    assert_eq!((reply.status, reply.json()["error"]["code"].clone()), (409, "exists".into()));
    let reply = client.request("PUT", "/v1/items/a%20b", "", br#"{"title": "Chair", "price_micros": 5}"#).await;
    assert_eq!((reply.status, reply.header("location")), (201, Some("/v1/items/a%20b")));
    let reply = client.request("PATCH", "/v1/items/a%20b", "", br#"{"title": null, "price_micros": 6}"#).await;
    assert_eq!((reply.status, reply.json()["price_micros"].clone()), (200, 6.into()));
    assert_eq!(client.get("/v1/items/a%20b").await.json()["title"], "");
    let reply = client.request("PUT", "/v1/items/7", "", br#"{"id": "8"}"#).await;
    assert_eq!((reply.status, reply.json()["error"]["field"].clone()), (400, "id".into()));
    let reply = client.request("PUT", "/v1/items/7", "", br#"{"vector": [1.0]}"#).await;
    assert_eq!((reply.status, reply.json()["error"]["field"].clone()), (400, "vector".into()));
    for (body, headers, status) in [
        (&b"{"[..], "", 400),
        (b"[1]", "", 400),
        (b"{}", "content-type: text/plain\r\n", 415),
        (b"{}", "content-type: application/json\r\n", 400),
    ] {
        assert_eq!(client.post("/v1/items", headers, body).await.status, status);
    }
    assert_eq!(client.request("DELETE", "/v1/items/7", "", b"").await.status, 204);
    assert_eq!(client.request("DELETE", "/v1/items/7", "", b"").await.status, 404);
    assert_eq!(client.get("/v1/items/7").await.status, 404);
    assert_eq!(client.get("/v1/nothing").await.status, 404);
    assert_eq!(client.request("PUT", "/v1/items", "", b"{}").await.header("allow"), Some("GET, HEAD, POST"));
    assert_eq!(client.get("/v1/plans/p%201/balance").await.json()["free_micros"], 5);
    assert_eq!(client.get("/v1/plans/p2/balance").await.status, 404);
}

#[tokio::test]
async fn imports_stream_commit_in_batches_and_tell_each_bad_line() {
    let port = Port::start(|config| {
        config.admin.import_batch_lines = 100;
        config.admin.import_line_bytes_max = 300;
        config.admin.import_errors_max = 3;
    });
    let mut client = port.client().await;
    let mut lines: Vec<String> =
        (1..=1_000).map(|i| format!("{{\"id\":\"i{i:04}\",\"title\":\"item {i}\"}}")).collect();
    lines[1] = "{broken".to_owned();
    lines[2] = String::new();
    lines[4] = format!("{{\"id\":\"{}\"}}", "x".repeat(400));
    lines[6] = "{\"id\":\"v\",\"vector\":[1.0]}".to_owned();
    lines[8] = "[]".to_owned();
    let reply =
        client.post("/v1/items:import", "content-type: application/x-ndjson\r\n", lines.join("\n").as_bytes()).await;
    let report = reply.json();
    assert_eq!(reply.status, 200, "{report}");
    assert_eq!(
        (report["lines"].clone(), report["imported"].clone(), report["failed"].clone()),
        (999.into(), 995.into(), 4.into())
    );
    let errors = report["errors"].as_array().unwrap();
    let listed: Vec<_> = errors.iter().map(|e| e["line"].as_u64().unwrap()).collect();
    assert_eq!(listed, [2, 5, 7], "in the order of lines, and the list is bounded");
    assert_eq!(errors[1]["message"], "the line is longer than 300 bytes");
    let batches = port.app.batches.lock().unwrap().clone();
    assert!(batches.iter().all(|&n| n <= 100) && batches.iter().sum::<usize>() == 996, "{batches:?}");

    let mut seen = Vec::new();
    let mut path = "/v1/items?limit=400".to_owned();
    loop {
        let page = client.get(&path).await.json();
        seen.extend(page["records"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()));
        assert_eq!(page["total"], 995);
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/items?limit=400&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 995);
    assert!(seen.is_sorted());
    assert_eq!(client.get("/v1/items?limit=0").await.json()["error"]["field"], "limit");
    assert_eq!(client.get("/v1/items?limit=9999").await.status, 400);
}

#[tokio::test]
async fn an_import_that_breaks_off_says_how_far_it_came() {
    let port = Port::start(|config| {
        config.admin.import_idle_ms = 100;
        config.admin.import_batch_lines = 2;
    });
    let mut client = port.client().await;
    client.send("POST /v1/items:import HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n").await;
    client.send("{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n{\"id\":").await;
    let reply = tokio::time::timeout(PATIENCE, client.reply()).await.unwrap();
    assert_eq!(reply.status, 408);
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("(line 3; before it 3 imported, 0 refused)"), "{message}");
    assert_eq!(port.app.items.lock().unwrap().len(), 3);
    assert_eq!(Kind::Items.name(), "items");
}
