//! The whole document: what the annotations at the handlers say, and what holds for every call.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::{
    limits::MAX_CORRELATION_ID_BYTES,
    openapi::{errors, examples, parameters, schemas},
};

const DESCRIPTION: &str = "Accepts webhooks and delivers them: signed, retried, traceable, and \
    never lost once accepted. JSON in, JSON out.\n\n\
    Every answer carries `x-correlation-id`. Every error is `application/problem+json` (RFC 9457): \
    a route that does not exist is 404, a \
    method that a route does not have is 405 with `allow`, and a 503 carries `retry-after`. Every \
    parameter and every field that is not in \
    this document is refused with 422, so that a mistyped one does not pass unseen; a parameter \
    with an empty value counts as missing.\n\n\
    Members that may be null are always there; members that are not required are left out where \
    they do not apply. Readers should ignore members \
    that they do not know.";

/// The document with everything that the annotations of the handlers do not state.
pub(crate) fn complete(annotated: &OpenApi) -> Value {
    let mut document = serde_json::to_value(annotated).unwrap_or_default();
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Posthaste", "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] =
        json!([{"url": "/", "description": "The deployment that answers with this document."}]);
    document["security"] = json!([{"bearer": []}, {"apiKey": []}]);
    document["tags"] = json!([
        {"name": "Webhooks", "description": "To have something delivered, and what became of it."},
        {"name": "Operating", "description": "To send again, to clean up."},
        {"name": "Dead letters", "description": "Webhooks that failed for good, kept for 30 days."},
        {"name": "Watching", "description": "How it goes."},
    ]);
    complete_schemas(&mut document["components"]);
    document["components"]["responses"] = Value::Object(errors::responses(&correlation_id()));
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer",
            "description": "One of the deployment's API_KEYS."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key",
            "description": "The same key in a header of its own."},
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

/// The header of every answer.
fn correlation_id() -> Value {
    json!({
        "description": "The caller's, if it was sane; else a new one.", "required": true,
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
        if let Some(schema) = parameters::schema_of(&name) {
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
                "description": "`true` if the key was sent before with the same request: this is \
                    the answer that was given then.",
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

/// Puts in what is written by hand; adds to the rest what its derivation cannot know: which members
/// are always there, and an example.
fn complete_schemas(components: &mut Value) {
    let Some(all) = components["schemas"].as_object_mut() else { return };
    for schema in all.values_mut() {
        require_nullable(schema);
    }
    // One of two answers: what has more is the other one.
    all["HealthWord"]["additionalProperties"] = json!(false);
    let written = schemas::written();
    all.extend(written);
    for (name, example) in examples::of_schemas() {
        all[name]["examples"] = json!([example]);
    }
}

/// A member that may be null is always there (see `view`); what can be left out is never null, and
/// its annotation says so.
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
