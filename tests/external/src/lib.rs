//! The programs that these tests need besides the build: a browser, Prometheus, Python's tools for
//! OpenAPI, cargo-lambda.

pub mod browser;
pub mod cargo_lambda;
pub mod openapi;
pub mod prometheus;
