//! What can be asked of the control socket? The same as an OpenAPI 3.1 document, made from the types themselves.

use bgproxy_conf::wire;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

/// The document of `GET /v1/openapi.json`.
pub fn document() -> Value {
    let mut schemas = Schemas(
        SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into()).into_generator(),
    );
    let service = json!({ "name": "service", "in": "path", "required": true, "schema": { "type": "string" } });
    let color = json!({ "name": "color", "in": "path", "required": true, "schema": { "type": "string" } });
    let only =
        json!({ "name": "service", "in": "query", "schema": { "type": "string" }, "description": "only this service" });
    let patience =
        json!({ "name": "timeout", "in": "query", "schema": { "type": "integer" }, "description": "seconds to wait" });
    let after = json!({ "name": "Last-Event-ID", "in": "header", "schema": { "type": "integer" }, "description": "go on after this event" });
    let paths = json!({
        "/v1/status": { "get": schemas.get::<wire::Status>("everything at one glance", &[]) },
        "/v1/services/{service}": { "get": schemas.get::<wire::ServiceStatus>("one service", &[&service]) },
        "/v1/services/{service}/switch": {
            "post": schemas.post::<wire::SwitchRequest, wire::SwitchReply>("make a color live", &[&service]),
        },
        "/v1/services/{service}/rollback": {
            "post": schemas.post::<wire::RollbackRequest, wire::SwitchReply>("make the previous color live", &[&service]),
        },
        "/v1/services/{service}/preview": {
            "post": schemas.post::<wire::PreviewRequest, wire::SwitchReply>("let testers reach a color", &[&service]),
        },
        "/v1/services/{service}/probe": {
            "post": schemas.post::<wire::ProbeRequest, wire::ProbeReport>("ask a color whether it is ready", &[&service]),
        },
        "/v1/services/{service}/close-streams": {
            "post": schemas.post::<wire::CloseStreamsRequest, wire::CloseStreamsReply>("end a color's streams", &[&service]),
        },
        "/v1/services/{service}/drain/{color}": {
            "get": schemas.get::<wire::IdleReply>("wait until a color is idle", &[&service, &color, &patience]),
        },
        "/v1/history": { "get": schemas.get::<wire::History>("what happened, newest first", &[&only]) },
        "/v1/events": { "get": schemas.events("what happens, as server-sent events", &[&only, &after]) },
        "/v1/reload": { "post": schemas.post::<(), wire::Reload>("read the configuration again", &[]) },
        "/v1/openapi.json": { "get": { "summary": "this document", "responses": { "200": { "description": "OpenAPI 3.1" } } } },
        "/metrics": { "get": { "summary": "Prometheus metrics", "responses": { "200": { "description": "text format 0.0.4" } } } },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bgproxy control socket",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP over the unix socket `control.socket`; the caller is who the kernel says it is.",
        },
        "paths": paths,
        "components": { "schemas": schemas.0.take_definitions(true) },
    })
}

struct Schemas(SchemaGenerator);

impl Schemas {
    fn get<Reply: JsonSchema>(&mut self, summary: &str, parameters: &[&Value]) -> Value {
        json!({ "summary": summary, "parameters": parameters, "responses": self.responses::<Reply>("application/json") })
    }

    fn post<Body: JsonSchema, Reply: JsonSchema>(&mut self, summary: &str, parameters: &[&Value]) -> Value {
        let body = self.0.subschema_for::<Body>();
        let mut operation = self.get::<Reply>(summary, parameters);
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": body } } });
        operation
    }

    fn events(&mut self, summary: &str, parameters: &[&Value]) -> Value {
        let responses = self.responses::<wire::Event>("text/event-stream");
        json!({ "summary": summary, "parameters": parameters, "responses": responses })
    }

    fn responses<Reply: JsonSchema>(&mut self, kind: &str) -> Value {
        let (reply, problem) = (self.0.subschema_for::<Reply>(), self.0.subschema_for::<wire::Problem>());
        json!({
            "200": { "description": "done", "content": { kind: { "schema": reply } } },
            "default": { "description": "not done", "content": { "application/problem+json": { "schema": problem } } },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        let names: Vec<_> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.contains(&"SwitchReply") && names.contains(&"Problem"), "{names:?}");
        for name in names {
            assert!(document["components"]["schemas"].get(name).is_some(), "no schema {name}");
        }
    }
}
