//! Bulk import: one JSON record a line, read as it arrives, committed in batches, with an error for each bad line.

use super::audit::Call;
use super::desk::{Desk, forbidden};
use super::tokens::Role;
use super::{CatalogAdmin, CatalogError, Kind};
use crate::http::Request;
use crate::http::respond::{self, Fault, Response};
use crate::meters::{Bound, Label as _};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// Lines parsed before other requests of the thread get a turn.
const LINES_A_TURN: u64 = 64;

/// What an import did.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Lines that held a record.
    lines: u64,
    /// Records written.
    imported: u64,
    /// Lines refused.
    failed: u64,
    /// The first of them, in the order of lines.
    errors: Vec<LineError>,
}

#[derive(Debug, Serialize)]
struct LineError {
    /// Counted from 1, empty lines included.
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    message: String,
}

struct Import<'a, C> {
    admin: &'a Desk<C>,
    kind: Kind,
    report: Report,
    /// The batch: line numbers and records.
    numbers: Vec<u64>,
    records: Vec<Value>,
    /// The number of the last line seen.
    line: u64,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// True while the rest of a line that is too long is read past.
    skipping: bool,
}

pub(super) async fn run<C: CatalogAdmin>(
    admin: &Desk<C>,
    call: &Call<'_>,
    kind: Kind,
    request: &mut Request,
) -> Result<Response, Fault> {
    match (&call.caller.role, kind) {
        (Role::Operator, _) | (Role::Ingest, Kind::Items) => {}
        _ => return Err(forbidden("bulk imports are for operators, and for ingest where items are concerned")),
    }
    admin.may_audit()?;
    let result = import(admin, kind, request).await;
    let told = match &result {
        Ok(report) => serde_json::to_value(report).unwrap_or_default(),
        Err(fault) => serde_json::json!({ "stopped": fault.message }),
    };
    admin.audited(call, format!("{}.import", kind.name()), "", (None, Some(&told)));
    result.map(|report| respond::json(StatusCode::OK, &report))
}

async fn import<C: CatalogAdmin>(admin: &Desk<C>, kind: Kind, request: &mut Request) -> Result<Report, Fault> {
    let settings = &admin.config.admin;
    let idle = Duration::from_millis(settings.import_idle_ms);
    let bytes_max = settings.import_mib_max << 20;
    let mut import = Import {
        admin,
        kind,
        report: Report::default(),
        numbers: Vec::new(),
        records: Vec::new(),
        line: 0,
        partial: Vec::new(),
        skipping: false,
    };
    let mut bytes = 0u64;
    loop {
        let piece = match request.piece(idle).await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return Err(import.broken_off(error.fault()).await),
        };
        bytes += piece.len() as u64;
        if bytes > bytes_max {
            let message = format!("the import is larger than {} MiB; send it in parts", settings.import_mib_max);
            let fault = Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
            return Err(import.broken_off(fault).await);
        }
        if let Err(error) = import.take(&piece).await {
            return Err(import.stopped(error.fault()));
        }
    }
    if let Err(error) = import.end().await {
        return Err(import.stopped(error.fault()));
    }
    Ok(import.report)
}

impl<C: CatalogAdmin> Import<'_, C> {
    async fn take(&mut self, piece: &[u8]) -> Result<(), CatalogError> {
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|&b| b == b'\n') {
            let (head, tail) = rest.split_at(at);
            rest = &tail[1..];
            if self.partial.is_empty() && !self.skipping && head.len() <= self.line_max() {
                self.line(head);
            } else {
                self.more(head);
                self.line_ends();
            }
            if self.records.len() >= self.admin.config.admin.import_batch_lines {
                self.commit().await?;
            }
            if self.line.is_multiple_of(LINES_A_TURN) {
                tokio::task::yield_now().await;
            }
        }
        self.more(rest);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), CatalogError> {
        if !self.partial.is_empty() || self.skipping {
            self.line_ends();
        }
        self.commit().await
    }

    fn line_max(&self) -> usize {
        self.admin.config.admin.import_line_bytes_max
    }

    fn more(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.partial.len() + part.len() > self.line_max() {
            self.partial = Vec::new();
            self.skipping = true;
        } else {
            self.partial.extend_from_slice(part);
        }
    }

    fn line_ends(&mut self) {
        if std::mem::take(&mut self.skipping) {
            self.line += 1;
            self.report.lines += 1;
            self.admin.meters.bounds.of(Bound::ImportLine).increment(1);
            let message = format!("the line is longer than {} bytes", self.line_max());
            self.fail(self.line, None, message);
            return;
        }
        let line = std::mem::take(&mut self.partial);
        self.line(&line);
    }

    fn line(&mut self, line: &[u8]) {
        self.line += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        self.report.lines += 1;
        match serde_json::from_slice::<Value>(line) {
            Ok(record @ Value::Object(_)) => {
                self.numbers.push(self.line);
                self.records.push(record);
            }
            Ok(_) => self.fail(self.line, None, "is no JSON object".to_owned()),
            Err(error) => self.fail(self.line, None, format!("is not JSON: {error}")),
        }
    }

    fn fail(&mut self, line: u64, field: Option<String>, message: String) {
        self.report.failed += 1;
        // A batch tells of its lines after later ones that were not even JSON: the list is kept in the order of lines all the same.
        let errors = &mut self.report.errors;
        errors.insert(errors.partition_point(|error| error.line <= line), LineError { line, field, message });
        errors.truncate(self.admin.config.admin.import_errors_max);
    }

    async fn commit(&mut self) -> Result<(), CatalogError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let (numbers, records) = (std::mem::take(&mut self.numbers), std::mem::take(&mut self.records));
        let results = self.admin.app.import(self.kind, records).await?;
        for (line, result) in numbers.into_iter().zip(results) {
            match result {
                Ok(()) => self.report.imported += 1,
                Err(error) => self.fail(line, Some(error.field), error.fault),
            }
        }
        Ok(())
    }

    /// The body ended badly: what came whole is still written.
    async fn broken_off(&mut self, fault: Fault) -> Fault {
        match self.commit().await {
            Ok(()) => self.stopped(fault),
            Err(error) => self.stopped(error.fault()),
        }
    }

    fn stopped(&self, fault: Fault) -> Fault {
        let Report { imported, failed, .. } = &self.report;
        let message =
            format!("{} (line {}; before it {imported} imported, {failed} refused)", fault.message, self.line);
        Fault { message, ..fault }
    }
}
