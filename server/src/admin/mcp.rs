//! The controls as tools of the Model Context Protocol (streamable HTTP, `POST /mcp`), with the tokens and roles of the API.
//!
//! Every request stands alone: no session is kept, so a replica or a restart loses nothing. What the tools do goes through
//! [`super::desk`], as the API's routes do. Changes that can spend money take two calls: the first describes the change and gives a
//! confirmation, the second makes it ([`Confirmations`]).

mod arguments;
mod confirm;
mod resources;
mod tools;

pub(super) use confirm::Confirmations;

use super::CatalogAdmin;
use super::audit::Call;
use super::desk::Desk;
use super::tokens::Caller;
use crate::http::Request;
use crate::http::respond::{self, Fault, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, StatusCode};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientJsonRpcMessage, ErrorCode, ErrorData,
    GetPromptRequestParams, GetPromptResponse, Implementation, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use std::sync::Arc;

const INSTRUCTIONS: &str = "Controls of a Longbow bidding server. Amounts are whole micros (millionths) of the plan's currency; times \
    are Unix seconds. A plan needs a budget, a goal (return on spend, cost per order or cost per click) and items to sell. Changes \
    that can spend money answer first with a description and a confirmation: show the description to the person in charge, and call \
    again with the confirmation only if they agree.";

/// The protocol's server.
pub(super) struct Mcp<C>(StreamableHttpService<Tools<C>, NeverSessionManager>);

impl<C: CatalogAdmin> Mcp<C> {
    pub(super) fn new(desk: &Arc<Desk<C>>) -> Self {
        let mut config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_sse_keep_alive(None)
            .with_max_request_body_bytes(desk.config.admin.body_bytes_max)
            // Host and origin were checked by the port's own guard.
            .disable_allowed_hosts();
        config.sse_retry = None;
        let desk = Arc::clone(desk);
        let service = move || Ok(Tools { desk: Arc::clone(&desk) });
        Self(StreamableHttpService::new(service, Arc::new(NeverSessionManager::default()), config))
    }
}

/// Who calls, carried through the protocol's server to its tools.
#[derive(Clone)]
struct Carried {
    caller: Caller,
    request: String,
}

/// Answers one message.
pub(super) async fn answer<C: CatalogAdmin>(
    mcp: &Mcp<C>,
    desk: &Desk<C>,
    caller: &Caller,
    mut request: Request,
) -> Result<Response, Fault> {
    let body = request.bytes(desk.config.admin.body_bytes_max).await.map_err(|error| error.fault())?;
    if request.method == Method::POST
        && request.expect_json().is_ok()
        && let Some(refused) = refusal(&body)
    {
        return Ok(refused);
    }
    let mut inner = http::Request::new(Full::new(body));
    *inner.method_mut() = request.method.clone();
    *inner.uri_mut() = request.uri.clone();
    *inner.headers_mut() = request.headers.clone();
    // The token has done its work; tools need only know who it was.
    inner.headers_mut().remove(hyper::header::AUTHORIZATION);
    inner.headers_mut().remove(hyper::header::CONTENT_ENCODING);
    inner.extensions_mut().insert(Carried { caller: caller.clone(), request: request.id.as_str().to_owned() });
    let (parts, body) = mcp.0.handle(inner).await.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(Response::from_parts(parts, body))
}

/// What is no message of the protocol is answered in its own terms (JSON-RPC 2.0, section 5.1), as 400.
fn refusal(body: &[u8]) -> Option<Response> {
    let refuse = |code: ErrorCode, fault: String, id: Value| {
        let error = json!({ "code": code.0, "message": fault });
        Some(respond::json(StatusCode::BAD_REQUEST, &json!({ "jsonrpc": "2.0", "id": id, "error": error })))
    };
    let message: Value = match serde_json::from_slice(body) {
        Ok(message) => message,
        Err(fault) => return refuse(ErrorCode::PARSE_ERROR, format!("the body is not JSON: {fault}"), Value::Null),
    };
    let id = message.get("id").filter(|id| id.is_string() || id.is_number()).cloned().unwrap_or_default();
    if serde_json::from_value::<ClientJsonRpcMessage>(message).is_ok() {
        return None;
    }
    let example = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}"#;
    refuse(ErrorCode::INVALID_REQUEST, format!("the body is not one message of JSON-RPC 2.0, as in {example}"), id)
}

/// The tools, resources and prompts.
pub(super) struct Tools<C> {
    desk: Arc<Desk<C>>,
}

fn carried(context: &RequestContext<RoleServer>) -> Result<Carried, ErrorData> {
    let parts = context.extensions.get::<http::request::Parts>();
    let carried = parts.and_then(|parts| parts.extensions.get::<Carried>());
    carried.cloned().ok_or_else(|| ErrorData::internal_error("the caller of this message is not known", None))
}

/// A fault as the answer of a tool: the model reads it and can mend the call.
fn refused(fault: &Fault) -> CallToolResult {
    let mut error = json!({ "code": fault.code, "message": fault.message });
    if let Some(field) = &fault.field {
        error["field"] = field.as_str().into();
    }
    CallToolResult::structured_error(json!({ "error": error }))
}

fn protocol_error(fault: &Fault) -> ErrorData {
    match fault.status {
        StatusCode::NOT_FOUND => ErrorData::resource_not_found(fault.message.clone(), None),
        status if status.is_client_error() => ErrorData::invalid_params(fault.message.clone(), None),
        _ => ErrorData::internal_error(fault.message.clone(), None),
    }
}

impl<C: CatalogAdmin> rmcp::ServerHandler for Tools<C> {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_resources().enable_prompts().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("longbow", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::list()?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let carried = carried(&context)?;
        let call = Call { caller: &carried.caller, via: "mcp", request: carried.request.clone() };
        let arguments = request.arguments.unwrap_or_default();
        let Some(result) = Box::pin(tools::run(&self.desk, &call, &request.name, arguments)).await else {
            return Err(ErrorData::invalid_params(format!("there is no tool `{}`", request.name), None));
        };
        Ok(match result {
            Ok(value) => CallToolResult::structured(value),
            Err(fault) => refused(&fault),
        }
        .into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let carried = carried(&context)?;
        let list = resources::list(&self.desk, &carried.caller).await.map_err(|fault| protocol_error(&fault))?;
        Ok(ListResourcesResult::with_all_items(list))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let carried = carried(&context)?;
        let read = resources::read(&self.desk, &carried.caller, &request.uri).await;
        read.map(Into::into).map_err(|fault| protocol_error(&fault))
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(resources::prompts()?))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        resources::prompt(&request.name, &arguments).map(Into::into)
    }
}
