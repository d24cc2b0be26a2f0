//! The parts of the document that the annotations of the handlers do not contain.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::{
    limits::MAX_CORRELATION_ID_BYTES,
    openapi::{errors, examples, parameters, schemas},
};

const DESCRIPTION: &str = "Posthaste accepts webhooks and delivers them. Deliveries are signed, \
    retried and traceable, and an accepted webhook is never lost. Requests and responses are JSON.\
    \n\n\
    Every response has the header `x-correlation-id`. Every error is `application/problem+json` \
    (RFC 9457). An unknown route is a 404. An unsupported method is a 405 with the header `allow`. \
    A 429 or a 503 has the header `retry-after`. A parameter or field that is not in this document \
    is a \
    422, so that a mistyped name does not go unnoticed. A parameter with an empty value counts as \
    omitted.\n\n\
    A member that can be null is always present. A member that is not required is omitted if it \
    does not apply. Clients should ignore unknown members.";

/// The document with everything that the annotations of the handlers do not state.
pub(crate) fn complete(annotated: &OpenApi) -> Value {
    let mut document = serde_json::to_value(annotated).unwrap_or_default();
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Posthaste", "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] =
        json!([{"url": "/", "description": "The deployment that serves this document."}]);
    document["security"] = json!([{"bearer": []}, {"apiKey": []}]);
    document["tags"] = json!([
        {"name": "Webhooks", "description": "Create webhooks and read their state."},
        {"name": "Applications",
            "description": "Customers, each with endpoints and keys of its own."},
        {"name": "Endpoints",
            "description": "The URLs to which the messages of an application go."},
        {"name": "Messages", "description": "Publish messages to the endpoints of an \
            application, and read their state."},
        {"name": "Deliveries", "description": "A message on its way to one endpoint."},
        {"name": "Operating", "description": "Resend and delete webhooks."},
        {"name": "Dead letters", "description": "Failed webhooks. They are kept for 30 days."},
        {"name": "Watching", "description": "Health, metrics and statistics."},
    ]);
    complete_schemas(&mut document["components"]);
    document["components"]["responses"] = Value::Object(errors::responses(&correlation_id()));
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer",
            "description": "An API key of the deployment, or the key of an application."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key",
            "description": "The same key in a separate header."},
    });
    for operation in operations(&mut document) {
        complete_operation(operation);
    }
    document
}

/// Every operation of every path.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut)
}

/// The header of every response.
fn correlation_id() -> Value {
    json!({
        "description": "The correlation ID of the request, or a new one if the request has none \
            or an invalid one.", "required": true,
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CORRELATION_ID_BYTES,
            "pattern": "^[!-~]+$"},
    })
}

fn complete_operation(operation: &mut Value) {
    let parameters = operation["parameters"].take();
    let mut parameters: Vec<Value> = parameters.as_array().cloned().unwrap_or_default();
    parameters.push(json!({"name": "x-correlation-id", "in": "header", "required": false}));
    for parameter in &mut parameters {
        let name = parameter["name"].as_str().unwrap_or_default().to_owned();
        let description = parameter["description"].as_str().unwrap_or_default();
        if let Some(schema) = parameters::schema_of(&name, description) {
            parameter["schema"] = schema;
        }
        if name == "x-correlation-id" {
            parameter["description"] = json!(parameters::CORRELATION_ID_TEXT);
        }
    }
    operation["parameters"] = Value::Array(parameters);
    if let Some(responses) = operation["responses"].as_object_mut() {
        errors::complete(responses);
    }
    let has_key = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|parameter| parameter["name"] == "Idempotency-Key");
    let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        if response["$ref"].is_string() {
            continue;
        }
        response["headers"]["x-correlation-id"] = correlation_id();
        if status.starts_with('2') && has_key {
            response["headers"]["idempotent-replayed"] = json!({
                "description": "`true` if this is the response of an earlier request with the \
                    same key.",
                "schema": {"type": "string", "const": "true"},
            });
        }
        if status.starts_with('2')
            && let Some(links) = examples::links(&name)
        {
            response["links"] = links;
        }
    }
}

/// Adds the schemas that are not derived. Adds to the derived ones which members are always
/// present, and an example.
fn complete_schemas(components: &mut Value) {
    let Some(all) = components["schemas"].as_object_mut() else { return };
    for schema in all.values_mut() {
        require_nullable(schema);
    }
    // One of two responses. The one with more members is the other.
    all["HealthWord"]["additionalProperties"] = json!(false);
    let written = schemas::written();
    all.extend(written);
    for (name, example) in examples::of_schemas() {
        all[name]["examples"] = json!([example]);
    }
}

/// A member that can be null is always present (see `view`). A member that can be omitted is never
/// null, and its annotation says so.
fn require_nullable(schema: &mut Value) {
    let parts = ["allOf", "oneOf", "anyOf"];
    for part in parts {
        schema[part].as_array_mut().into_iter().flatten().for_each(require_nullable);
        if schema[part].is_null()
            && let Some(object) = schema.as_object_mut()
        {
            object.remove(part);
        }
    }
    let Some(properties) = schema["properties"].as_object().cloned() else {
        if let Some(object) = schema.as_object_mut() {
            object.remove("properties");
        }
        return;
    };
    let is_null = |value: &Value| value == "null" || value["type"] == "null";
    let nullable = properties.iter().filter(|(_, property)| {
        let alternatives = [&property["type"], &property["oneOf"], &property["anyOf"]];
        alternatives
            .iter()
            .any(|several| several.as_array().is_some_and(|several| several.iter().any(is_null)))
    });
    let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, _) in nullable {
        if !required.iter().any(|known| known == name) {
            required.push(json!(name));
        }
    }
    schema["required"] = Value::Array(required);
}
